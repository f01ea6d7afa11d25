"""Seconds and peak memory of one stage, for its metrics."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from core.parallel import Ranks

RESET_PEAK = "5"
"""Written to clear_refs to reset the peak resident size."""


@contextmanager
def timed(ranks: Ranks) -> Iterator[dict[str, float]]:
    """Fill in the seconds of the body and the peak memory of the busiest rank (collective).

    The peak is the highest memory since `restart_peak`.
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
    """Forget the memory of earlier stages. Memory that is held now counts for the next stage too.

    On a CPU only Linux can do this, and only if /proc can be written. Elsewhere the peak stays the
    highest of the process so far.
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
    """Return the peak bytes since `restart_peak`: of GPU memory, else of resident memory."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would include the process that started this one, if that was larger.
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return float(line.split()[1]) * 1024
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows.
        return float(memory.peak_wset)  # pyright: ignore[reportAttributeAccessIssue]
    import resource  # Only POSIX has this module.

    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
