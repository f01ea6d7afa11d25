"""A tiny random model of any causal type of transformers: sizes shrunk by the names of fields."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

BLOCKS = 3
FIELDS = {
    64: """hidden_size n_embd d_model dim_model model_dim dim embedding_size word_embed_proj_dim
        n_embed emb_dim lru_width embedding_dim max_position_embeddings n_positions n_ctx
        max_seq_len max_sequence_length context_length seq_length""",
    BLOCKS: """num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers
        num_blocks encoder_layers""",
    4: """num_attention_heads n_head n_heads decoder_attention_heads encoder_attention_heads
        attention_heads num_experts num_local_experts n_routed_experts moe_num_experts
        time_step_rank mamba_dt_rank linear_num_value_heads""",
    2: """num_key_value_heads num_kv_heads n_head_kv num_experts_per_tok moe_topk top_k_experts
        moe_k moe_num_experts_per_tok linear_num_key_heads eos_token_id""",
    16: """head_dim kv_channels attention_head_dim swa_head_dim global_head_dim kv_lora_rank
        qk_nope_head_dim v_head_dim mamba_d_head mamba_head_dim linear_key_head_dim
        linear_value_head_dim hidden_size_per_layer_input""",
    96: """intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size dim_ff
        d_ff feed_forward_size shared_expert_intermediate_size shared_intermediate_size
        moe_shared_expert_intermediate_size intermediate_size_mlp mlp_ffn_hidden_size""",
    32: "moe_intermediate_size expert_ffn_hidden_size",
    128: "vocab_size n_vocab vocab_size_per_layer_input mamba_d_ssm",
    1: """n_group topk_group bos_token_id first_k_dense_replace num_dense_layers mamba_n_groups
        n_groups""",
    5: "sliding_window",
    24: "q_lora_rank qk_head_dim",
    8: """qk_rope_head_dim rotary_dim mamba_d_state mamba_n_heads mamba_chunk_size state_size
        mamba_num_heads chunk_size ssm_state_size""",
    0: "pad_token_id",
}
SIZES = {name: size for size, names in FIELDS.items() for name in names.split()}
ALWAYS = ("n_inner", "pad_token_id")
"""Fields that are given although their default is None."""
VISION = {
    **dict.fromkeys(("hidden_size", "image_size", "vision_output_dim", "output_channels"), 32),
    **dict.fromkeys(("projector_input_dim", "projector_output_dim"), 32),
    **dict.fromkeys(("intermediate_size", "mlp_dim", "out_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "depth", "num_global_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "num_heads", "attention_heads"), 2),
    **dict.fromkeys(("patch_size", "num_position_embeddings", "num_pos_feats"), 16),
    "vision_feature_layer": -1,
    "deepstack_visual_indexes": [],
    "global_attn_indexes": [0],
    "window_size": 0,
}
AUDIO = {
    **dict.fromkeys(("hidden_size", "d_model", "ext_pw_out_channel"), 32),
    **dict.fromkeys(("depthwise_separable_out_channel", "nemo_conv_channels"), 32),
    **dict.fromkeys(("num_blocks", "num_hidden_layers", "encoder_layers"), 1),
    **dict.fromkeys(("num_attention_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "encoder_ffn_dim"), 64),
    "conf_num_hidden_layers": 1,
}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
LATENT = {"head_dim": ..., "qk_head_dim": ..., "num_key_value_heads": 4}
"""Multi-head latent attention; `...` drops a field."""
KINDS = ["sliding_attention", "full_attention", "full_attention"]
EXTRA: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        """axk1 axk2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa minicpm3
        youtu""".split(),
        LATENT,
    ),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), {"head_dim": 16}),
    "bailing_hybrid": LATENT | {"num_experts": 8, "n_group": 1, "topk_group": 1},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE},
        "layer_types": KINDS,
    },
    "ctrl": {"dff": 96},
    "dbrx": {
        "ffn_config": {
            "ffn_hidden_size": 96,
            "moe_num_experts": 4,
            "moe_top_k": 2,
            "hidden_size": 64,
        },
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
    },
    "deepseek_v2": LATENT | {"num_experts_per_tok": 2},
    "deepseek_v4": {"index_head_dim": 16, "index_n_heads": 2, "o_lora_rank": 16, "head_dim": 32},
    "dots1": {
        "n_routed_experts": 4,
        "num_local_experts": ...,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
    },
    "gemma3n_text": {
        "intermediate_size": 96,
        "num_kv_shared_layers": 1,
        "layer_types": KINDS,
        "activation_sparsity_pattern": None,
        "laurel_rank": 8,
    },
    "gemma4_text": {"layer_types": [KINDS[0], *KINDS[:2]], "num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 5},
    "kimi_linear": {
        "num_experts": 8,
        "num_local_experts": ...,
        "num_experts_per_token": 2,
        "num_expert_group": 1,
        "num_key_value_heads": 4,
        "head_dim": ...,
        "linear_head_dim": 16,
        "linear_num_heads": 4,
        "qk_head_dim": ...,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {
        "head_dim": 8,
        "qk_head_dim": ...,
        "num_key_value_heads": 4,
        "zero_expert_num": 2,
    },
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "phi4_multimodal": {
        "vision_config": {"crop_size": 32, "num_hidden_layers": 2, "hidden_size": 64},
        "audio_config": {},
        "rope_parameters": ROPE | {"partial_rotary_factor": 1.0},
    },
    "zaya": {"num_experts_per_tok": 1},
}


def config_of(model_type: str) -> PreTrainedConfig:
    """Return a tiny configuration of a model type, for decoding."""
    kind = CONFIG_MAPPING[model_type]
    parts = {key: value for key, value in EXTRA.get(model_type, {}).items()}
    for name, part in nested(kind).items():
        if isinstance(part, PreTrainedConfig) and name == "text_config":
            parts[name] = config_of(part.model_type)
        else:
            known = part if isinstance(part, dict) else part.to_dict()
            small = VISION if "vis" in name else AUDIO
            given = {k: v for k, v in small.items() if k in known} | parts.get(name, {})
            parts[name] = given if isinstance(part, dict) else type(part)(**given)
    sizes = {} if "text_config" in parts else sizes_of(kind)
    settings = {key: value for key, value in (sizes | parts).items() if value is not ...}
    config = kind(**settings)
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    return config


def nested(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    """Return the default parts of a configuration that has parts for text, images and sound."""
    try:
        default = kind()
    except Exception:
        return {}
    names = (*kind.sub_configs, *(n for n in ("vision_config", "audio_config")))
    found = {name: getattr(default, name, None) for name in names}
    return {n: one for n, one in found.items() if isinstance(one, (dict, PreTrainedConfig))}


def sizes_of(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    """Return tiny sizes for the fields that a configuration has."""
    try:
        defaults = kind().to_dict()
    except Exception:
        defaults = None
    fields = {*inspect.signature(kind.__init__).parameters, *(defaults or {})}
    fields |= set(getattr(kind, "__dataclass_fields__", {}))
    found = {}
    for name, size in SIZES.items():
        default = 0 if defaults is None else defaults.get(name, 0)
        is_list = isinstance(default, (list, tuple)) and not name.endswith("token_id")
        if name in fields and name not in (getattr(kind, "attribute_map", None) or {}):
            if (default is not None or name in ALWAYS) and not is_list:
                found[name] = size
    return found


def model_of(config: PreTrainedConfig) -> PreTrainedModel:
    """Return a random model whose blocks change their inputs noticeably."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for name, param in model.named_parameters():
            if param.dim() >= 2 and "A_log" not in name:
                torch.nn.init.normal_(param, std=0.15)
    return model
