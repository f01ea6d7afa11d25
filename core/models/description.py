"""A model described by its config alone, without its weights."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from core.checks import BadInputError, require
from core.models.anatomy import AnatomyError, anatomy_of
from core.models.blocks import prunable_matrices
from core.models.config_checks import count_of
from core.models.configs import CONFIG, named_errors, quiet, read_config
from core.models.facts import NO_LIMIT, Linear, ModelFacts
from core.models.matrices import Matrix
from core.models.pieces import holds_experts_otherwise
from core.models.sources import ModelSource
from core.models.weight_files import meta_model

CHOSEN_COUNTS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts")
CHOSEN_COUNTS += ("moe_top_k", "moe_k", "moe_num_experts_per_tok")
"""Config keys that hold the number of experts of a token."""
ENCODERS: dict[str, str] = {**MODEL_FOR_MASKED_LM_MAPPING_NAMES}
"""Class of each model type that predicts hidden tokens; a few are encoders and decoders."""


def describe_model(source: ModelSource) -> ModelFacts:
    """Return a model's facts: read its config and build it without memory for weights.

    Raises:
        ValueError: in one line, for a model that cannot be pruned here.
    """
    config = read_config(source)
    require_causal(source.name, config)
    stored = str(config.dtype or torch.float32).removeprefix("torch.")
    with named_errors(source.name, CONFIG), quiet():
        model = meta_model(config, torch.float32)
    require_known_experts(source.name, model)
    try:
        with quiet():
            anatomy = anatomy_of(model)
    except AnatomyError as error:
        raise BadInputError(f"--models {source.name}: {error}") from error
    text = config.get_text_config(decoder=True)
    blocks = {f"{anatomy.path}.{index}": each for index, each in enumerate(anatomy.blocks)}
    first = {
        f"{path}.{name}": f"{path}.{reads}"
        for path, block in blocks.items()
        for name, reads in block.inputs.items()
    }
    usual = prunable_matrices(model)

    def linear(one: Matrix) -> Linear:
        return Linear(one.name, one.rows, one.cols, one.block, first[one.name], share_of(one, text))

    return ModelFacts(
        name=source.name,
        model_type=config.model_type,
        num_blocks=len(blocks),
        hidden_size=anatomy.hidden_size,
        vocab_size=text.vocab_size,
        max_seq_len=getattr(text, "max_position_embeddings", None) or NO_LIMIT,
        dtype=stored,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        linears=tuple(map(linear, usual.values())),
        left_out={
            f"{p}.{name}": why for p, b in blocks.items() for name, why in b.left_out.items()
        },
        has_experts=any(one.piece.expert is not None for one in usual.values()),
        routers=tuple(
            linear(one)
            for name, one in prunable_matrices(model, routers=True).items()
            if name not in usual
        ),
    )


def require_causal(name: str, config: PreTrainedConfig) -> None:
    """Refuse a model that predicts no next token."""
    kind = config.model_type
    remedy = f"is an encoder ({kind}), which sees later tokens; give a causal language model"
    require(not ENCODERS.get(kind, "").endswith("ForMaskedLM"), "models", name, remedy)
    remedy = f"transformers has no causal language model of type {kind!r}; give one that it has"
    require(kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "models", name, remedy)


def require_known_experts(name: str, model: PreTrainedModel) -> None:
    """Refuse a mixture whose experts have a form of their own: they would be left out."""
    for path, module in model.named_modules():
        kind = type(module).__name__
        remedy = f"its experts ({path}, {kind}) have a form of their own; give another model"
        require(not holds_experts_otherwise(module), "models", name, remedy)


def share_of(matrix: Matrix, config: PreTrainedConfig) -> float:
    """Return the share of all tokens that a matrix multiplies: that of an expert by its config."""
    if matrix.piece.expert is None:
        return 1.0
    chosen = max(count_of(config, key) for key in CHOSEN_COUNTS)
    return min(1.0, max(chosen, 1) / len(matrix.parameter))
