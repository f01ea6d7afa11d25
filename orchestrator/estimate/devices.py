"""Devices: memory and operations a second of CPUs and known GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from orchestrator.config import ResourceConfig

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
USABLE_SHARE = 0.93
"""Part of the memory of a card, or of a machine, that workers may fill."""
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class Gpu:
    """A card: the memory that an allocator can have, and operations a second that sweeps reach."""

    usable_bytes: float
    rates: Mapping[str, float]


def gpu(gib: float, fp32_tflops: float, half_tflops: float) -> Gpu:
    """Return a card: 93 % of its memory, 60 % of its fp32 peak, 45 % of its half-type peak."""
    half = 0.45e12 * half_tflops
    rates = {"float32": 0.6e12 * fp32_tflops, "bfloat16": half, "float16": half}
    return Gpu(USABLE_SHARE * gib * GIB, rates)


def cpus_per_worker(config: ResourceConfig) -> int:
    """Return the CPU cores of a worker, which are also its torch threads."""
    return config.cpus_per_worker or max(1, (os.cpu_count() or 1) // config.num_workers)


def gpus_per_worker(config: ResourceConfig) -> float:
    """Return the GPUs of a worker; a fraction lets workers share one."""
    return (config.gpus_per_worker or 1.0) if config.use_gpu else 0.0


def usable_bytes(device: torch.device, threads: int, gpus: float) -> float:
    """Return the memory that a worker may fill here.

    It is that of its card, or of this machine by its part of the CPU cores.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return USABLE_SHARE * min(1.0, gpus) * total
    return USABLE_SHARE * min(1.0, threads / (os.cpu_count() or 1)) * machine_bytes()


def machine_bytes() -> float:
    """Return the memory of this machine, or of the container that this process runs in."""
    limits = [psutil.virtual_memory().total]
    for path in CONTAINER_LIMITS:
        text = path.read_text().strip() if path.is_file() else "max"
        limits += [int(text)] if text.isdigit() else []
    return float(min(limits))


# Data sheets, dense tensor-core peaks; fp32 without TF32, which pruning statistics are kept in.
GPUS = {
    "A10G": gpu(24, 31.2, 70),
    "L4": gpu(24, 30.3, 121),
    "A100": gpu(80, 19.5, 312),
    "H100": gpu(80, 66.9, 989),
}
