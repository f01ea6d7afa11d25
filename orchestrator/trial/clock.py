"""Seconds and peak memory of one stage, for its metrics."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from core.ranks import Ranks

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Files of Linux: memory of this process, and what makes Linux forget its peak."""
RESET_PEAK = b"5"
"""Written to `CLEAR_REFS` to reset the peak resident size."""


@contextmanager
def timed(ranks: Ranks) -> Iterator[dict[str, float]]:
    """Fill in the seconds of the body and the peak memory of the busiest rank (collective).

    The peak is the highest memory since `restart_peak`.
    """
    clock: dict[str, float] = {}
    start = time.perf_counter()  # Windows counts `time.monotonic` in steps of 16 ms.
    yield clock
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)
    clock["seconds"] = time.perf_counter() - start
    peaks = torch.zeros(ranks.size, dtype=torch.float64)
    peaks[ranks.rank] = peak_memory(ranks.device)
    clock["peak_memory_bytes"] = int(ranks.sum_(peaks).max().item())
    clock["finished_at"] = datetime.datetime.now(datetime.UTC).timestamp()


def restart_peak(device: torch.device) -> None:
    """Forget the memory of earlier stages. Memory that is held now counts for the next stage too.

    On a CPU only Linux can do this, and only if /proc can be written. Elsewhere the peak stays the
    highest of the process so far.
    """
    if device.type == "cuda":
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        CLEAR_REFS.write_bytes(RESET_PEAK)
    except OSError:
        pass


def peak_memory(device: torch.device) -> float:
    """Return the peak bytes since `restart_peak`: of GPU memory, else of resident memory.

    Linux and Windows know the peak of a process. macOS tells psutil only what it holds now.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        text = STATUS.read_text(encoding="utf-8") if STATUS.is_file() else ""
    except OSError:
        text = ""
    if found := re.search(r"VmHWM:\s*(\d+) kB", text):
        return float(found[1]) * 1024
    memory = psutil.Process().memory_info()
    return float(memory.peak_wset if hasattr(memory, "peak_wset") else memory.rss)
