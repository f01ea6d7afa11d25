"""Seconds that a model takes: prefill of a prompt, and decoding of one token after it.

The kernels are those that the model has. Dense kernels multiply zeros like other numbers, so pruned
weights alone make nothing faster; `core/models/semi_structured.py` gives 2:4 weights other kernels.
"""

from __future__ import annotations

import inspect
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

WARM_UPS = 2
"""Runs before the first that counts: kernels are chosen and memory is reserved in them."""


@dataclass(frozen=True)
class Timing:
    """Median of some measured times."""

    seconds: float
    spread: float
    """Distance of the quartiles in seconds: the middle half of all times is within it."""

    @classmethod
    def of(cls, times: list[float]) -> Timing:
        """Return the median and spread of at least two times."""
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
        return cls(middle, high - low)


@dataclass(frozen=True)
class Speed:
    """Times of one model."""

    prefill: Timing
    """One forward pass over the whole prompt."""
    decode: Timing
    """One forward pass over one token, with the keys and values of all before."""


@torch.inference_mode()
def measure_speed(model: PreTrainedModel, prompt: Tensor, num_new: int, repeats: int) -> Speed:
    """Return the speed of a model that is whole on one device.

    Args:
        model: the model.
        prompt: tokens [batch, length]; they decide nothing but the size of the work.
        num_new: tokens that are decoded after each prefill.
        repeats: prefills; `repeats * num_new` decoded tokens are timed.
    """
    device = next(model.parameters()).device
    prompt = prompt.to(device)
    was_training = model.training
    model.eval()
    prefills: list[float] = []
    decodes: list[float] = []
    for turn in range(WARM_UPS + repeats):
        first, others = one_turn(model, prompt, num_new, device)
        if turn >= WARM_UPS:
            prefills.append(first)
            decodes += others
    model.train(was_training)
    return Speed(Timing.of(prefills), Timing.of(decodes))


def one_turn(
    model: PreTrainedModel, prompt: Tensor, num_new: int, device: torch.device
) -> tuple[float, list[float]]:
    """Return the seconds of one prefill and of each decoded token after it."""
    last: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        last["logits_to_keep"] = 1  # Only the last token's scores choose the next one.
    start = now(device)
    out = model(input_ids=prompt, use_cache=True, **last)
    prefill = now(device) - start
    decodes = []
    for _ in range(num_new):
        token = out.logits[:, -1:].argmax(-1)
        start = now(device)
        out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True, **last)
        decodes.append(now(device) - start)
    return prefill, decodes


def now(device: torch.device) -> float:
    """Return the time after all work that the device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
