"""Seconds and peak memory of one stage, as its metrics record them."""

from __future__ import annotations

import datetime
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from core.parallel import Ranks

RESET_PEAK = "5"
"""What Linux takes in `clear_refs` for: the highest resident memory so far is that of now."""


@contextmanager
def timed(ranks: Ranks) -> Iterator[dict[str, float]]:
    """Fills in seconds and the peak memory of the busiest rank (collective).

    The seconds are of what is within, the peak is of all since `restart_peak`.
    """
    clock: dict[str, float] = {}
    start = time.monotonic()
    yield clock
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)
    clock["seconds"] = time.monotonic() - start
    peaks = torch.zeros(ranks.size, dtype=torch.float64)
    peaks[ranks.rank] = peak_memory(ranks.device)
    clock["peak_memory_bytes"] = int(ranks.sum_(peaks).max().item())
    clock["finished_at"] = datetime.datetime.now(datetime.UTC).timestamp()


def restart_peak(device: torch.device) -> None:
    """Forgets the memory of earlier stages; what is held now counts for the next one too.

    Only Linux can do so for a process, and not where /proc is read-only: there a CPU's peak stays
    the highest of the process so far.
    """
    if device.type == "cuda":
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    except OSError:
        pass


def peak_memory(device: torch.device) -> float:
    """Bytes at the highest point since `restart_peak`: of GPU memory, else of what is resident."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():
        # What getrusage says includes the process that started this one, where that was larger.
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return float(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
