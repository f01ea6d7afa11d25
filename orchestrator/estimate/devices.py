"""Devices: memory and operations a second of CPUs and known GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2.0**30
WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""
# Operations a second where nothing was measured: 2 CPU cores; for a GPU an A10G.
RATES = {
    ("cpu", "float32"): 100e9,
    ("cpu", "bfloat16"): 200e9,
    ("cpu", "float16"): 100e9,
    ("cuda", "float32"): 18e12,
    ("cuda", "bfloat16"): 35e12,
    ("cuda", "float16"): 35e12,
}
MEMORY_BYTES_A_SECOND = {"cpu": 5e9, "cuda": 500e9}
BASE_BYTES = {"cpu": 0.45e9, "cuda": 0.6e9}
"""Memory of Python, torch and transformers before any model is loaded; on a GPU of its context."""


@dataclass(frozen=True)
class Gpu:
    """A card: the memory that an allocator can have, and operations a second that sweeps reach."""

    usable_bytes: float
    rates: Mapping[str, float]


def gpu(gib: float, fp32_tflops: float, half_tflops: float) -> Gpu:
    """Return a card: 93 % of its memory, 60 % of its fp32 peak, 45 % of its half-type peak."""
    half = 0.45e12 * half_tflops
    rates = {"float32": 0.6e12 * fp32_tflops, "bfloat16": half, "float16": half}
    return Gpu(0.93 * gib * GIB, rates)


# Data sheets, dense tensor-core peaks; fp32 without TF32, which pruning statistics are kept in.
GPUS = {
    "A10G": gpu(24, 31.2, 70),
    "L4": gpu(24, 30.3, 121),
    "A100": gpu(80, 19.5, 312),
    "H100": gpu(80, 66.9, 989),
}
