"""A tiny configuration of every model family. A new family adds its line to `FAMILIES` here."""

from __future__ import annotations

from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
)

VOCAB = 96
OPT = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "ffn_dim": 64,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "init_std": 0.2,
}
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = ["sliding_attention", "full_attention"]
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OPT_MATRICES = {*ATTENTION, "self_attn.out_proj", "fc1", "fc2"}
GATED_MATRICES = {
    *ATTENTION,
    "self_attn.o_proj",
    *(f"mlp.{n}_proj" for n in ("gate", "up", "down")),
}

FAMILIES = {
    "opt": (OPTConfig(**OPT), OPT_MATRICES),
    "opt-350m": (
        OPTConfig(**OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
        OPT_MATRICES,
    ),
    "llama": (LlamaConfig(**LLAMA), GATED_MATRICES),
    "smollm2": (LlamaConfig(**LLAMA, tie_word_embeddings=True), GATED_MATRICES),
    "mistral": (MistralConfig(**LLAMA, sliding_window=5), GATED_MATRICES),
    "qwen2": (Qwen2Config(**LLAMA), GATED_MATRICES),
    "qwen3": (Qwen3Config(**LLAMA), GATED_MATRICES),
    "gemma": (GemmaConfig(**LLAMA), GATED_MATRICES),
    "gemma2": (Gemma2Config(**LLAMA, sliding_window=5, layer_types=KINDS), GATED_MATRICES),
    "gemma3": (Gemma3TextConfig(**LLAMA, sliding_window=5, layer_types=KINDS), GATED_MATRICES),
}
"""Name -> (configuration, prunable matrices of one block by their names within it)."""
