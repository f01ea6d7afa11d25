"""Random models of known shapes, and the memory that the project expects for them."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from measure_cost import describe_inputs
from transformers import LlamaConfig, OPTConfig, PreTrainedConfig

from core.models.description import describe_model
from core.models.sources import ModelSource
from gpu_check.findings import Finding
from gpu_check.sizes import Place
from orchestrator.estimate.memory import phases
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.trial.clock import peak_memory

GIB = 2**30


def opt(hidden: int, blocks: int, heads: int, place: Place) -> PreTrainedConfig:
    """Return the config of an OPT whose widths a rehearsal divides."""
    width = hidden // place.sizes.shrink
    return OPTConfig(
        hidden_size=width,
        ffn_dim=4 * width,
        word_embed_proj_dim=width,
        num_hidden_layers=blocks,
        num_attention_heads=max(1, heads // place.sizes.shrink),
        dropout=0.0,
        use_cache=False,
        dtype=torch.bfloat16,
    )


def llama(hidden: int, inner: int, blocks: int, heads: int, place: Place) -> PreTrainedConfig:
    """Return the config of a LLaMA whose widths a rehearsal divides."""
    by = place.sizes.shrink
    return LlamaConfig(
        hidden_size=hidden // by,
        intermediate_size=inner // by,
        num_hidden_layers=blocks,
        num_attention_heads=max(1, heads // by),
        max_position_embeddings=4096,
        use_cache=False,
        dtype=torch.bfloat16,
    )


def source_of(config: PreTrainedConfig, name: str, place: Place) -> ModelSource:
    """Write a config alone, and return it as the source of a model."""
    directory = place.folder / name
    config.save_pretrained(directory)
    return ModelSource(name, str(directory), None, "")


def expected_bytes(
    source: ModelSource, phase: str, sample: tuple[int, int], micro_batch: int, place: Place
) -> float:
    """Return the estimated peak of a phase on one worker.

    Args:
        source: the model.
        phase: `evaluate`, `prune` or `finetune`.
        sample: calibration windows and their length; other phases read the length.
        micro_batch: windows of one forward pass.
        place: on a GPU the context of CUDA does not count: the allocator does not see it.
    """
    samples, length = sample
    flags = argparse.Namespace(
        device=place.device,
        dtype="auto",
        samples=samples,
        seq_len=length,
        tokens=micro_batch * length,
    )
    facts = describe_model(source)
    cost = ModelCost(facts, describe_inputs(flags, facts), place.device)
    parts = phases(cost, phase == "finetune", 1, micro_batch * length)[phase]
    return sum(parts.values()) - (0.0 if place.rehearsal else parts["base"])


def note_memory(finding: Finding, expected: float, place: Place) -> None:
    """Add the peak of the device, what was expected, and the peak of the host to a finding."""
    peak, host = peak_memory(torch.device(place.device)), peak_memory(torch.device("cpu"))
    found: dict[str, Any] = {"peak_bytes": peak, "expected_bytes": expected, "host_bytes": host}
    finding.figures |= found
    finding.text += f"; peak {peak / GIB:.2f} GiB, expected {expected / GIB:.2f}"
    if not place.rehearsal:
        finding.text += f", host {host / GIB:.2f}"
