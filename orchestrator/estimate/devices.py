"""Devices: a worker's part of a machine, and operations a second of CPUs and known GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from orchestrator.config import ResourceConfig
from orchestrator.estimate.machine import Node, machine_bytes, num_cores

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


def cpus_per_worker(config: ResourceConfig, node: Node | None = None) -> int:
    """Return the CPU cores of a worker, which are also its torch threads.

    By default the workers of a trial share the cores of a node. With a GPU each, a worker takes
    only its GPU's part of the cores, so that all GPUs of the node can be used.

    Args:
        config: resources of a trial.
        node: the node that workers run on; None for this machine.
    """
    if config.cpus_per_worker is not None:
        return config.cpus_per_worker
    node = node or this_node(config.use_gpu)
    share = node.cpus / config.num_workers
    if config.use_gpu and node.gpus > 0:
        share = min(share, node.cpus * gpus_per_worker(config) / node.gpus)
    return max(1, int(share))


def gpus_per_worker(config: ResourceConfig) -> float:
    """Return the GPUs of a worker; a fraction lets workers share one."""
    return (config.gpus_per_worker or 1.0) if config.use_gpu else 0.0


def this_node(count_gpus: bool) -> Node:
    """Return the cores of this machine and, where they are of use, its GPUs, without Ray."""
    return Node(num_cores(), torch.cuda.device_count() if count_gpus else 0)


def usable_bytes(device: torch.device, num_processes: int, gpus: float) -> float:
    """Return the memory that a worker may fill here.

    It is that of its card, or its part of this machine's memory.

    Args:
        device: the worker's device.
        num_processes: worker processes that run on this machine at a time.
        gpus: part of a card that the worker has.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return USABLE_SHARE * min(1.0, gpus) * total
    return USABLE_SHARE * machine_bytes() / num_processes


def processes_here(threads: int, at_once: int | None) -> int:
    """Return how many worker processes run on this machine at a time, at most.

    Args:
        threads: CPU cores of a worker.
        at_once: that number, if it is known; else as many run as have cores.
    """
    return at_once or max(1, num_cores() // threads)


# Data sheets, dense tensor-core peaks; fp32 without TF32, which pruning statistics are kept in.
GPUS = {
    "A10G": gpu(24, 31.2, 70),
    "L4": gpu(24, 30.3, 121),
    "A100": gpu(80, 19.5, 312),
    "H100": gpu(80, 66.9, 989),
}
