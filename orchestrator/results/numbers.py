"""Numbers as people read them: means, perplexities, times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

MAX_LOSSES = 200
"""Most points of a loss curve; each is the mean over some steps."""


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation of the finite values; None where undefined."""
    finite = [value for value in values if math.isfinite(value)]
    mean = statistics.fmean(finite) if finite else None
    return mean, statistics.stdev(finite) if len(finite) > 1 else None


def format_perplexity(mean: float, std: float | None = None) -> str:
    """Write a perplexity as shortly as its spread allows: `27.66`, `41.2±0.3`, `1.2e+04`, `inf`."""
    if not math.isfinite(mean):
        return str(mean)
    if mean >= 9999.5:
        return f"{mean:.1e}" + (f"±{std:.0e}" if std is not None else "")
    digits = 2 if mean < 100 else 1 if mean < 1000 else 0
    if std is None:
        return f"{mean:.{digits}f}"
    if std >= 0.095:
        digits = min(digits, 1)
    return f"{mean:.{digits}f}±{std:.{digits}f}"


def clock(seconds: float) -> str:
    """Write seconds as 45s, 3m20s or 2h05m."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def thinned(values: list[float], most: int = MAX_LOSSES) -> list[float]:
    """Return at most `most` means over equally long runs of neighbours; the last may be shorter."""
    size = -(-len(values) // most) or 1
    runs = (values[start : start + size] for start in range(0, len(values), size))
    return [sum(run) / len(run) for run in runs]
