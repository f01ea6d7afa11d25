"""Checks of a model's config: sizes, heads, kind, dtype and quantization, each with its message.

transformers checks some of them, in words and types of errors that differ between its versions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.checks import BadInputError, require
from core.models.families import FAMILIES
from core.precision import DTYPES

EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Config keys that hold the number of experts of a mixture."""
WIDEST, MOST_BLOCKS, MOST_IDS, MOST_TOKENS = 2**20, 1_000, 2**24, 2**31 - 1
LARGEST = {
    "num_hidden_layers": MOST_BLOCKS,
    "vocab_size": MOST_IDS,
    "max_position_embeddings": MOST_TOKENS,
    "sliding_window": MOST_TOKENS,
    "hidden_size": WIDEST,
    "intermediate_size": WIDEST,
    "ffn_dim": WIDEST,
    "word_embed_proj_dim": WIDEST,
    "num_attention_heads": WIDEST,
    "num_key_value_heads": WIDEST,
    "head_dim": WIDEST,
}
"""Sizes in a config that are at least 1, each with a bound that no model comes near to.

Without a bound, a wrong number makes transformers build a model for hours.
"""
MORE_THAN_0 = ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
EPSILONS = ("rms_norm_eps", "layer_norm_eps")
SHARES = ("dropout", "attention_dropout", "activation_dropout", "layerdrop")
NO_CAUSAL_HEADS = ("Classification", "QuestionAnswering", "MaskedLM", "MultipleChoice")
"""Ends of the names of architectures whose head predicts no next token."""


def require_sizes(name: str, values: Mapping[str, Any]) -> None:
    """Refuse sizes that are no positive whole number, or absurdly large.

    They may have the names of the family, and lie in the part for text.
    """
    kind, text = str(values.get("model_type")), values.get("text_config")
    spelt = CONFIG_MAPPING[kind].attribute_map if kind in CONFIG_MAPPING else {}
    keys = {key: most for key, most in LARGEST.items()}
    keys |= {spelt[key]: most for key, most in LARGEST.items() if key in spelt}
    for key, most in keys.items():
        for value in (values.get(key), text.get(key) if isinstance(text, dict) else None):
            if value is None or isinstance(value, list):
                continue  # A default, a size for each block, or else transformers refuses it.
            if (key, value) == ("sliding_window", 0) and not values.get("use_sliding_window"):
                continue  # Qwen2-MoE writes 0 for none.
            told = f"its config.json says {key} {value!r}"
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            remedy = f"{told}; it is a whole number from 1 to {most:,}"
            require(is_whole and 1 <= value <= most, "models", name, remedy)


def require_numbers(name: str, values: Mapping[str, Any]) -> None:
    """Refuse numbers that no forward pass can work with: NaN, and those out of their range."""
    for key, value in values.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        remedy = f"its config.json says {key} {value}; copy the config of the model again"
        fits = -math.inf < value < math.inf
        fits &= key not in MORE_THAN_0 or value > 0
        fits &= key not in EPSILONS or value >= 0
        fits &= key not in SHARES or 0 <= value <= 1
        require(fits, "models", name, remedy)


def require_model_type(name: str, values: Mapping[str, Any]) -> None:
    """Refuse a config without a model type, or with one that needs code from its repository."""
    kind = values.get("model_type")
    remedy = f"its config.json says model_type {kind!r}; give a model that save_pretrained wrote"
    require(isinstance(kind, str) and kind != "", "models", name, remedy)
    known = kind in CONFIG_MAPPING
    remedy = f"its model type {kind!r} needs code of its own, which is not run"
    require(known or not values.get("auto_map"), "models", name, remedy)
    remedy = f"its model type {kind!r} is not known to this version of transformers; update it"
    require(known, "models", name, remedy)


def require_causal_head(name: str, config: PreTrainedConfig) -> None:
    """Refuse a head that predicts no next token."""
    for architecture in config.architectures or ():
        remedy = f"is a {architecture}, which predicts no next token; give a causal language model"
        require(not str(architecture).endswith(NO_CAUSAL_HEADS), "models", name, remedy)


def count_of(config: PreTrainedConfig, key: str) -> int:
    """Return a whole number that a config has under a key, or 0."""
    try:
        value = getattr(config, key, None)
    except Exception:  # Some configs raise an error of their own: the blocks differ.
        value = None
    return value if isinstance(value, int) else 0


def require_unquantized(name: str, config: PreTrainedConfig) -> None:
    """Refuse a quantized model; say by which library."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, dict) else None
    told = f" ({method})" if isinstance(method, str) else ""
    remedy = f"its weights are quantized{told}; give the model they were made from"
    raise BadInputError(f"--models {name}: {remedy}")


def require_heads(name: str, config: PreTrainedConfig) -> None:
    """Refuse heads that do not fit each other or the hidden size."""
    config = config.get_text_config(decoder=True)
    heads = count_of(config, "num_attention_heads")
    if heads == 0:
        return  # No attention, or other heads in each block.
    groups = count_of(config, "num_key_value_heads") or heads
    remedy = (
        f"its config.json says num_key_value_heads {groups} and num_attention_heads {heads}; the "
        "first must divide the second"
    )
    require(heads % groups == 0, "models", name, remedy)
    width = count_of(config, "head_dim")
    if not width and config.model_type in FAMILIES:
        remedy = (
            f"its config.json says hidden_size {config.hidden_size} and num_attention_heads "
            f"{heads}; the second must divide the first"
        )
        require(config.hidden_size % heads == 0, "models", name, remedy)
    else:
        remedy = f"its config.json says head_dim {width}; rotary embeddings need an even number"
        require(width % 2 == 0, "models", name, remedy)
    kinds, blocks = getattr(config, "layer_types", None), config.num_hidden_layers
    if kinds is not None:
        remedy = (
            f"its config.json has {len(kinds)} layer_types and num_hidden_layers {blocks}; they "
            "must agree"
        )
        require(len(kinds) == blocks, "models", name, remedy)
        remedy = "its config.json has layers of sliding_attention, but no sliding_window"
        slides = "sliding_attention" in kinds
        has_window = getattr(config, "sliding_window", None) is not None
        require(has_window or not slides, "models", name, remedy)


def require_dtype_name(name: str, values: Mapping[str, Any]) -> None:
    """Refuse a config whose dtype is none of torch."""
    found = values.get("dtype", values.get("torch_dtype"))
    known = getattr(torch, found.removeprefix("torch."), None) if isinstance(found, str) else None
    remedy = f"its config.json says dtype {found!r}; name that of its weights, such as bfloat16"
    require(found is None or isinstance(known, torch.dtype), "models", name, remedy)


def require_dtype(name: str, wanted: str, stored: str) -> None:
    """Refuse a dtype that nothing computes in, unless --dtype names another one.

    Args:
        name: the model.
        wanted: the dtype asked for, or `auto`.
        stored: the dtype that the config names.
    """
    known = ", ".join(DTYPES)
    remedy = f"its config.json says dtype {stored}; computed is in {known}: give one as --dtype"
    require(wanted != "auto" or stored in DTYPES, "models", name, remedy)
