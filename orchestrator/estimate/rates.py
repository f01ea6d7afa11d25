"""Rates of this machine: operations a second on a model, timed before anything runs.

A model of two blocks and random weights, built from the config alone, goes forward and backward as
stages do. So norms, rotary embeddings, softmax and the loss count as well.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable

import torch
import transformers
from torch.nn.functional import cross_entropy

from core.models.facts import ModelFacts
from core.models.sources import ModelSource
from core.precision import DTYPES

SAMPLE_BLOCKS = 2
SAMPLE_TOKENS = 1024


def measured_rates(
    source: ModelSource, facts: ModelFacts, dtype: str, training_dtype: str, device: torch.device
) -> dict[str, float]:
    """Return operations a second of each kind of work by `WORK DTYPE`; takes a few seconds.

    Args:
        source: the model; its config is read, its weights are not.
        facts: facts of the whole model.
        dtype: dtype of calibration and evaluation.
        training_dtype: dtype of training; weights are float32 then.
        device: the device to time.
    """
    # It imports transformers' models, which only this function needs.
    from core.models.loading import sample_model

    seq_len = min(facts.max_seq_len, 512)
    size = (max(1, SAMPLE_TOKENS // seq_len), seq_len)
    tokens = torch.randint(0, facts.vocab_size, size, device=device)
    model = sample_model(source, SAMPLE_BLOCKS, DTYPES[dtype]).to(device)  # pyright: ignore
    operations = sample_operations(facts, tokens)

    def forward() -> None:
        with torch.no_grad():
            loss_of(model, tokens).item()

    rates = {f"forward {dtype}": operations / best_seconds(forward)}
    # In training FSDP2 rounds the weights of a block before it runs, and gradients are rounded too.
    model = model.to(DTYPES[training_dtype])  # pyright: ignore

    def step() -> None:
        loss_of(model, tokens).backward()
        model.zero_grad()

    rates[f"training {training_dtype}"] = 3 * operations / best_seconds(step)
    return rates | product_rates(facts, ["float32"], device)


def sample_operations(facts: ModelFacts, tokens: torch.Tensor) -> float:
    """Return the operations of one forward pass of the small model."""
    blocks = min(SAMPLE_BLOCKS, facts.num_blocks)
    weights = sum(o.rows * o.cols * o.share for o in facts.linears if o.block < blocks)
    attention = blocks * facts.hidden_size * tokens.shape[1]
    return 2.0 * tokens.numel() * (weights + facts.vocab_size * facts.hidden_size + attention)


def loss_of(model: transformers.PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of the next token."""
    logits = model(tokens).logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def product_rates(
    facts: ModelFacts, dtypes: Iterable[str], device: torch.device
) -> dict[str, float]:
    """Return the rates of products as wide as the model's, by dtype."""
    widest = max(facts.linears, key=lambda one: one.rows * one.cols)
    rates = {}
    for dtype in dtypes:
        inputs = torch.ones(512, widest.cols, device=device, dtype=DTYPES[dtype])
        weight = torch.ones(widest.rows, widest.cols, device=device, dtype=DTYPES[dtype])
        seconds = best_seconds(functools.partial(multiply, inputs, weight))
        rates[dtype] = 2.0 * inputs.numel() * widest.rows / seconds
    return rates


def multiply(inputs: torch.Tensor, weight: torch.Tensor) -> float:
    """Compute a product and wait for it."""
    return (inputs @ weight.T).sum().item()


def best_seconds(call: Callable[[], object], limit: float = 1.0) -> float:
    """Return the seconds of the fastest of several calls; the first does not count."""
    call()
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < limit:
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best
