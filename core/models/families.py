"""Model families: where each keeps its blocks, and what is special about them."""

from __future__ import annotations

BACKBONES = {"opt": "model.decoder"} | dict.fromkeys(
    ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), "model"
)
"""Where the backbone of each supported `model_type` is."""
MLP_HALF = (
    dict.fromkeys(BACKBONES, ("post_attention_layernorm", "mlp"))
    | {"opt": ("final_layer_norm", "fc1", "fc2")}
    | dict.fromkeys(
        ("gemma2", "gemma3_text"),
        ("pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
    )
)
"""Children of a block that make its MLP half, by model type; all else is the attention half.

In OPT-350M `final_layer_norm` runs after `fc2`, in the other sizes before `fc1`."""
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
KEPT_WIDTHS = {True: 3, False: 10}
"""Float32 values a token and block beside products, in hidden sizes: LayerNorm; RMSNorm, rotary."""
SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Matrices of a block that read one input, and so share a statistic."""
