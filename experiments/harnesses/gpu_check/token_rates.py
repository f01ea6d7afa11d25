"""Part: tokens a second of masked training, of a Trainer, of evaluation and of decoding."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import statistics
import time
from collections.abc import Callable
from functools import partial

import bench_finetune
import torch
from bench_solvers import synchronize
from torch import Tensor
from transformers import PreTrainedModel

from core.config import FinetuneConfig
from core.measures.perplexity import evaluate
from core.measures.speed import measure_speed
from core.models.blocks import prunable_matrices
from core.models.semi_structured import with_sparse_kernels
from core.precision import DTYPES, inference_dtype, training_dtype
from core.ranks import Ranks
from core.texts.windows import evaluation_windows
from gpu_check.findings import Finding, Skipped
from gpu_check.random_models import expected_bytes, note_memory, source_of
from gpu_check.sizes import Place
from orchestrator.trial.clock import restart_peak

STEPS, TURNS = 3, 2
"""Steps of a turn, of which the first does not count, and turns."""
SHAPES = ("opt-125m", "opt-1.3b")


def model_of(shape: str, place: Place) -> PreTrainedModel:
    """Return a random OPT with float32 weights on the device; a rehearsal divides its sizes."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    by = place.sizes.shrink
    found = {size: max(2, count // by) for size, count in bench_finetune.SHAPES[shape].items()}
    return bench_finetune.random_model(found, place.device)


def flags_of(place: Place) -> argparse.Namespace:
    """Return the flags of the bench of training."""
    windows, micro_batch, _ = place.sizes.batch
    return argparse.Namespace(
        device=place.device,
        compute=training_dtype("auto", torch.device(place.device)),
        batch_windows=windows,
        micro_batch=micro_batch,
    )


def step_windows(place: Place) -> Tensor:
    """Return random windows for one turn."""
    windows, _, length = place.sizes.batch
    generator = torch.Generator().manual_seed(0)
    return torch.randint(4, 50_000, (STEPS * windows, length), generator=generator)


def rate(turn: Callable[[], list[float]], place: Place) -> float:
    """Return tokens a second: of the median step, without the first of each turn."""
    seconds = [step for _ in range(TURNS) for step in turn()[1:]]
    windows, _, length = place.sizes.batch
    return windows * length / statistics.median(seconds)


def train(shape: str, place: Place) -> Finding:
    """Time masked training; half of every matrix is pruned."""
    device, flags = torch.device(place.device), flags_of(place)
    restart_peak(device)
    model = model_of(shape, place)
    masks = bench_finetune.half_pruned(model, Ranks.current(device))
    config = FinetuneConfig(lr=1e-4)
    turn = bench_finetune.ours(model, masks, step_windows(place), flags, config)
    found = rate(turn, place)
    finding = Finding(f"{found:,.0f} tokens/s", {"tokens_a_second": found, "dtype": flags.compute})
    _, micro_batch, length = place.sizes.batch
    source = source_of(model.config, shape, place)
    note_memory(finding, expected_bytes(source, "finetune", (8, length), micro_batch, place), place)
    return finding


def train_with_trainer(shape: str, place: Place) -> Finding:
    """Time transformers' Trainer on the same batches, without masks."""
    if importlib.util.find_spec("accelerate") is None:
        raise Skipped("accelerate is not installed, which the Trainer needs")
    turn = bench_finetune.trainer(model_of(shape, place), step_windows(place), flags_of(place))
    found = rate(turn, place)
    return Finding(f"{found:,.0f} tokens/s", {"tokens_a_second": found})


def score(shape: str, place: Place) -> Finding:
    """Time an evaluation in the dtype of the weights: bf16 where the device has it."""
    device = torch.device(place.device)
    restart_peak(device)
    dtype = DTYPES[inference_dtype("auto", "bfloat16", device)]
    model = model_of(shape, place).to(dtype)
    count, length = place.sizes.scored
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, 50_000, (count * length,), generator=generator)
    windows, micro_batch = evaluation_windows(len(tokens), length), place.sizes.batch[1]
    ranks, seconds = Ranks.current(device), []
    for _ in range(2):
        synchronize(device)
        start = time.perf_counter()
        evaluate(model, tokens, windows, ranks, micro_batch=micro_batch)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    found = len(tokens) / min(seconds)
    finding = Finding(f"{found:,.0f} tokens/s", {"tokens_a_second": found})
    config = model.config
    config.dtype = dtype
    source = source_of(config, f"{shape}-scored", place)
    note_memory(finding, expected_bytes(source, "evaluate", (8, length), micro_batch, place), place)
    return finding


def decode(shape: str, place: Place) -> Finding:
    """Time decoding of a 2:4 model with dense kernels and with sparse ones, which have to agree."""
    device = torch.device(place.device)
    dtype = DTYPES[inference_dtype("auto", "bfloat16", device)]
    model = model_of(shape, place).to(dtype)
    for matrix in prunable_matrices(model).values():
        weight = matrix.read()
        scores = weight.abs().unflatten(1, (-1, 4))
        least = scores.argsort(-1)[..., :2]
        kept = torch.ones_like(scores, dtype=torch.bool).scatter_(-1, least, False).flatten(1)
        matrix.write_(weight * kept)
    prompt = torch.randint(4, 50_000, (1, place.sizes.batch[2]), generator=torch.Generator())
    dense = measure_speed(model, prompt, num_new=16, repeats=5).decode.seconds
    figures = {"dense_seconds": dense, "tokens_a_second": 1 / dense}
    finding = Finding(f"{1 / dense:,.1f} tokens/s dense", figures)
    try:
        sparse = with_sparse_kernels(model)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        finding.require(device.type != "cuda", f"sparse kernels: {str(error).splitlines()[0]}")
        return finding
    with torch.inference_mode():
        wanted, found = (one(prompt.to(device)).logits.float() for one in (model, sparse))
    apart = float((wanted - found).norm() / wanted.norm())
    finding.require(apart < 0.02, f"sparse kernels differ by {apart:.1%}")
    seconds = measure_speed(sparse, prompt, num_new=16, repeats=5).decode.seconds
    finding.figures |= {"sparse_seconds": seconds, "difference": apart}
    finding.text += f", {1 / seconds:,.1f} with sparse kernels"
    return finding


CASES = {
    f"{shape} {word}": partial(action, shape)
    for shape in SHAPES
    for word, action in (
        ("training", train),
        ("Trainer", train_with_trainer),
        ("scoring", score),
        ("decoding", decode),
    )
}
