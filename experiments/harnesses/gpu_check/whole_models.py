"""Part: seconds and memory of SparseGPT on whole models of random weights.

A few blocks run. The seconds of the whole are extrapolated: those of the first block, which holds
what is done once, and the mean of the others for each other block.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from bench_solvers import synchronize
from transformers import PreTrainedConfig

from core.activations import Calibration
from core.config import PruneConfig
from core.finished_blocks import FinishedBlock, Resumption
from core.models.loading import sample_model
from core.precision import DTYPES, inference_dtype
from core.pruners import make_pruner
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from gpu_check.findings import Finding
from gpu_check.random_models import expected_bytes, llama, note_memory, opt, source_of
from gpu_check.sizes import Place
from orchestrator.trial.clock import restart_peak

MICRO_BATCH_TOKENS = {"cuda": 16_384, "cpu": 2048}
"""Tokens of one forward pass, those of a sweep by default."""
BLOCKS = 4
"""Blocks that run; at least two."""

Shape = Callable[[int, Place], PreTrainedConfig]
"""Returns a config from (blocks, place)."""
SHAPES: dict[str, tuple[Shape, int]] = {
    "opt-1.3b": (lambda blocks, place: opt(2048, blocks, 32, place), 24),
    "llama-2-7b": (lambda blocks, place: llama(4096, 11008, blocks, 32, place), 32),
}
"""Shape and number of blocks of each model."""


def check(name: str, place: Place) -> Finding:
    """Prune some blocks of a random model; extrapolate to all."""
    shape, num_blocks = SHAPES[name]
    device = torch.device(place.device)
    source = source_of(shape(BLOCKS, place), name, place)
    restart_peak(device)
    dtype = DTYPES[inference_dtype("auto", "bfloat16", device)]
    with device:
        model = sample_model(source, BLOCKS, dtype)
    count, length = place.sizes.whole
    windows = torch.randint(4, 30_000, (count, length), generator=torch.Generator().manual_seed(0))
    micro_batch = max(1, MICRO_BATCH_TOKENS[place.device] // length)
    synchronize(device)
    marks = [time.perf_counter()]

    def mark(_: FinishedBlock) -> None:
        synchronize(device)
        marks.append(time.perf_counter())

    calibration = Calibration(windows, micro_batch, resumption=Resumption(keep=mark))
    pruner = make_pruner("sparsegpt", PruneConfig())
    prune_(model, pruner, Target(0.5), Ranks.current(device), calibration)
    seconds = [after - before for before, after in zip(marks, marks[1:])]
    whole, block = extrapolated(seconds, num_blocks)
    figures = {
        "block_seconds": seconds,
        "whole_seconds": whole,
        "calibration_tokens": windows.numel(),
    }
    text = f"{whole:.3g} s for {num_blocks} blocks, from {BLOCKS}: {block:.3g} s a block"
    finding = Finding(text, figures)
    expected = expected_bytes(source, "prune", (count, length), micro_batch, place)
    note_memory(finding, expected, place)
    return finding


def extrapolated(seconds: list[float], num_blocks: int) -> tuple[float, float]:
    """Return the seconds of a whole model, and of one block after the first."""
    block = statistics.mean(seconds[1:])
    return seconds[0] + block * (num_blocks - 1), block


CASES = {f"{name} sparsegpt": partial(check, name) for name in SHAPES}
