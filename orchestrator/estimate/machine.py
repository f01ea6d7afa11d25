"""The machine that this process runs on: cores and memory, within the limits of its container.

Ray counts cores by the limits of the container too. A plain count of the machine's cores would ask
Ray for more than it has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
ALL_CORES = "RAY_USE_MULTIPROCESSING_CPU_COUNT"
"""Variable by which a user asks Ray, and so us, to ignore the container's limit of cores."""


@dataclass(frozen=True)
class Node:
    """Resources of one machine of a cluster."""

    cpus: float
    gpus: float = 0.0


def num_cores() -> int:
    """Return the CPU cores of this process's container, at least 1."""
    cores = os.cpu_count() or 1
    if os.environ.get(ALL_CORES):
        return cores
    allowed = getattr(os, "sched_getaffinity", None)  # Linux alone has it.
    if allowed is not None:  # It knows the cores that a container names.
        cores = min(cores, len(allowed(0)))
    return max(1, int(min([cores, *core_limits()])))


def core_limits() -> Iterator[float]:
    """Yield the limits of CPU time of the own container, in cores."""
    for folder in cgroup_folders("cpu"):
        quota, _, period = read(folder / "cpu.max").partition(" ")
        quota = quota or read(folder / "cpu.cfs_quota_us")
        period = period or read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period)


def machine_bytes() -> float:
    """Return the memory of this machine, or of the container that this process runs in."""
    limits = [psutil.virtual_memory().total]
    for folder in cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = read(folder / name)
            limits += [int(text)] if text.isdigit() else []
    return float(min(limits))


def cgroup_folders(controller: str) -> Iterator[Path]:
    """Yield the folders of limits of this process, its own first, then those around it.

    Args:
        controller: `cpu` or `memory`. The first version of cgroups has a tree for each; the second
            has one tree.
    """
    for line in read(OWN_CGROUPS).splitlines() or ["0::/"]:
        _, names, place = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        top = CGROUPS / controller if names else CGROUPS
        own = top / place.lstrip("/")
        # A container shows its own limits at the top, whatever its place is called outside.
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def read(file: Path) -> str:
    """Return the text of a file; empty if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
