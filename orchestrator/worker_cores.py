"""Cores of a worker where the sweep has this machine for itself and no flag gives them.

Threads that share a small model wait for each other, so several worker groups of few threads do
more than one group of all cores. But groups have to start, need memory, and cannot share a branch.
The choice changes numbers only by the order of floating-point sums.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from orchestrator.estimate.machine import machine_bytes, num_cores
from orchestrator.estimate.memory import memory
from orchestrator.preparation import Sweep, Texts, trials_of

NOMINAL_CORES = 2
"""Cores by which stages have their estimated seconds."""
GAIN = 0.8
"""Speed grows with the number of threads to this power. Two threads of the default sweep are 1.9
times faster in evaluation, 1.7 in pruning and 1.4 in training."""
START_SECONDS = 20.0
"""Seconds of one core that a worker group takes to start."""

MEMORY_SHARE = 0.5
"""Part of this machine's memory that several groups may fill. The rest is for files that they read
and for whoever works here."""


def with_cores(sweep: Sweep, texts: Texts) -> Sweep:
    """Return a sweep whose workers have the number of cores with which it ends first.

    It is returned as it is with GPUs, on a cluster, with several workers a trial, or where
    `--cpus-per-worker` is given. Nor do groups run side by side where `--eval.speed` takes times.
    """
    given = sweep.config.resources
    is_open = given.cpus_per_worker is None and given.num_workers == 1 and not given.use_gpu
    if not is_open or sweep.config.eval.speed or os.environ.get("RAY_ADDRESS"):
        return sweep
    cores, most = num_cores(), given.max_concurrent_trials
    best, least = cores, float("inf")
    for threads in thread_counts(cores):
        slots = min(cores // threads, most or cores)
        trials = trials_of(sweep, texts.seconds, slots)
        at_once = min(slots, len(trials))
        if threads < cores and not fits(sweep, at_once):
            break
        slowness = (NOMINAL_CORES / threads) ** GAIN
        loads = [slowness * sum(texts.seconds[s.id] for s in trial.stages) for trial in trials]
        seconds = longest(loads, slots) + START_SECONDS * len(trials) / cores
        if seconds < least:
            best, least = threads, seconds
    return replace(sweep, worker_cores=best)


def thread_counts(cores: int) -> Iterator[int]:
    """Yield all cores, half of them, and so on down to one."""
    while cores:
        yield cores
        cores //= 2


def fits(sweep: Sweep, at_once: int) -> bool:
    """Return True if so many whole workers of each model find room in this machine's memory."""
    needs = [
        memory(cost, sweep.trains, 1, sweep.micro_batch_tokens) for cost in sweep.costs.values()
    ]
    return at_once * max(needs) <= MEMORY_SHARE * machine_bytes()


def longest(loads: Sequence[float], slots: int) -> float:
    """Return when the last slot ends that takes the next load as soon as it is free."""
    ends = [0.0] * slots
    for load in loads:
        heapq.heapreplace(ends, ends[0] + load)
    return max(ends)
