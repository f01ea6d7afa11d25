"""A model described by its config alone, without its weights."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from core.models.blocks import decoder_blocks, prunable_matrices
from core.models.configs import CONFIG, named_errors, quiet, read_config
from core.models.facts import NO_LIMIT, Linear, ModelFacts
from core.models.sources import ModelSource


def describe_model(source: ModelSource) -> ModelFacts:
    """Return a model's facts: read its config and build it without memory for weights.

    Raises:
        ValueError: in one line, for a model that cannot be pruned here.
    """
    config = read_config(source)
    stored = str(config.dtype or torch.float32).removeprefix("torch.")
    with named_errors(source.name, CONFIG), torch.device("meta"), quiet():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return ModelFacts(
        name=source.name,
        model_type=config.model_type,
        num_blocks=len(decoder_blocks(model)),
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        max_seq_len=getattr(config, "max_position_embeddings", None) or NO_LIMIT,
        dtype=stored,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        linears=tuple(
            Linear(matrix.name, matrix.rows, matrix.cols, matrix.block)
            for matrix in prunable_matrices(model).values()
        ),
    )
