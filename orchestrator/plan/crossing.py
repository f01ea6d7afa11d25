"""The highest sparsity at which a curve stays within a ratio to the dense perplexity.

`follow` repeats the search from its start with the points that are there: the coarse grid brackets
the crossing, and each further sparsity narrows the bracket. It uses only sparsities that it asked
for itself. So the answer depends on the curve alone, and not on other ratios, on other searches or
on the moment at which a sweep was stopped.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

STEP = 0.005
"""Sparsities that a search asks for are multiples of this."""
WIDTH = 0.01
"""A bracket of this width ends the search: the answer lies within half of it."""
MOST = 6
"""Most sparsities that a search asks for in a gap of the coarse grid of at most 0.63."""

Ratios = Mapping[int | None, float]
"""Perplexities over the dense one by seed; the seed is None where no seed plays a part. Infinity or
NaN stands for a cell that failed or is not finite."""
Curve = Mapping[float, Ratios]
"""Whole points by sparsity. A point that still lacks a seed is no point."""
Logs = Mapping[float, float]
"""Logarithm of a ratio by sparsity; infinite above all ratios."""


@dataclass(frozen=True)
class Crossing:
    """State of the search on one curve for one ratio."""

    ratio: float
    low: float = 0.0
    """Highest sparsity that is within the ratio; 0 is the dense model."""
    high: float | None = None
    """Next sparsity above `low`, which is not within; None if the grid ends within the ratio."""
    next: float | None = None
    """Sparsity to measure next; None when the search is over."""
    asked: tuple[float, ...] = ()
    """Sparsities that the search has added to the coarse grid, in their order."""
    value: float | None = None
    """The crossing of the mean over seeds of log perplexity; None if the search is not over, or if
    the grid ends within the ratio."""
    seeds: Mapping[int | None, float | None] = field(default_factory=dict)
    """The crossing of each seed's own points; None for a seed that stays within."""
    lost: tuple[float, ...] = ()
    """Sparsities that count as above the ratio because a seed failed there or is not finite."""
    dips: tuple[float, ...] = ()
    """Sparsities below `low` that are above the ratio: the curve is not monotone."""

    @property
    def half_width(self) -> float | None:
        """Greatest distance of the value to an end of the bracket, at most 0.005."""
        if self.value is None or self.high is None:
            return None
        return round(max(self.value - self.low, self.high - self.value), 6)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over the seeds that cross; None for fewer than two."""
        found = [value for value in self.seeds.values() if value is not None]
        return statistics.stdev(found) if len(found) > 1 else None


def follow(curve: Curve, coarse: Iterable[float], ratio: float) -> Crossing:
    """Return how far the search has come: the next sparsity to measure, or the answer.

    Args:
        curve: the points that have been measured, also those that other searches asked for.
        coarse: sparsities of the grid; one that is no point yet is the first to measure.
        ratio: to the dense perplexity, above 1.
    """
    coarse = sorted(coarse)
    missing = [sparsity for sparsity in coarse if sparsity not in curve]
    if missing:
        return Crossing(ratio, next=missing[0])
    level, asked = math.log(ratio), []
    logs = {s: mean_log(curve[s]) for s in coarse} | {0.0: 0.0}
    low, high = bracket(logs, level)
    most = MOST if high is None else most_in(low, high)
    while high is not None and high - low > WIDTH + 1e-9:
        sparsity = proposal(logs, low, high, level, most - len(asked))
        asked.append(sparsity)
        if sparsity not in curve:
            return Crossing(ratio, low, high, sparsity, tuple(asked))
        logs[sparsity] = mean_log(curve[sparsity])
        low, high = (sparsity, high) if logs[sparsity] <= level else (low, sparsity)
    value = None if high is None else settled(logs, low, high, level)
    used = {s: curve[s] for s in sorted(logs) if s in curve}
    return Crossing(
        ratio,
        low,
        high,
        asked=tuple(asked),
        value=value,
        seeds={} if value is None else crossings_of_seeds(used, level),
        lost=tuple(s for s in used if math.isinf(logs[s])),
        dips=tuple(s for s in used if s < low and logs[s] > level),
    )


def most_asked(coarse: Iterable[float]) -> int:
    """Return the most sparsities that a search on this grid asks for, whatever the curve."""
    ends = [0.0, *sorted(coarse)]
    wide = [ends for ends in zip(ends, ends[1:]) if ends[1] - ends[0] > WIDTH]
    return max((most_in(*ends) for ends in wide), default=0)


def most_in(low: float, high: float) -> int:
    """Return the most sparsities that a search asks for in one gap of the coarse grid."""
    first, last = steps(low, high)
    return max(MOST, math.ceil(math.log2((last - first) * STEP / WIDTH)))


def steps(low: float, high: float) -> tuple[int, int]:
    """Return the ends of a bracket as multiples of `STEP`, rounded outwards."""
    return math.floor(low / STEP + 1e-6), math.ceil(high / STEP - 1e-6)


def mean_log(ratios: Ratios) -> float:
    """Return the mean over seeds of the logarithm; infinity if any seed is not finite."""
    if not all(map(math.isfinite, ratios.values())):
        return math.inf
    return statistics.fmean(map(math.log, ratios.values()))


def bracket(logs: Logs, level: float) -> tuple[float, float | None]:
    """Return the highest sparsity within a level, and the next one; None if there is no next."""
    low = max((s for s, log in logs.items() if log <= level), default=0.0)
    return low, min((s for s in logs if s > low), default=None)


def proposal(logs: Logs, low: float, high: float, level: float, left: int) -> float:
    """Return the sparsity to measure next in a bracket, with `left` measurements to come.

    It is the estimated crossing, moved where that alone could end the search: if the estimate is
    right, the next bracket beside `low` or `high` has the final width. And it is so near to the
    middle that halving can always end the search in time (the projection of the ITP method of
    Oliveira and Takahashi, 2020).
    """
    first, last = steps(low, high)
    estimate = (low + high) / 2
    if high - low > 2 * WIDTH:
        estimate = min(max(between(logs, low, high, level), low + WIDTH), high - WIDTH)
    reach = round(WIDTH / STEP) * 2 ** (left - 1)
    return round(min(max(round(estimate / STEP), last - reach), first + reach) * STEP, 6)


def between(logs: Logs, low: float, high: float, level: float) -> float:
    """Return the estimated crossing between two points.

    The logarithm of log perplexity over dense is nearly linear in the log-odds of the sparsity.
    Where it does not exist, log perplexity itself is taken as linear; beside an infinite point the
    middle is.
    """
    below, above = logs[low], logs[high]
    if not math.isfinite(above - below):
        return (low + high) / 2
    if below <= 0 or low <= 0 or high >= 1:
        return low + (high - low) * (level - below) / (above - below)
    part = math.log(level / below) / math.log(above / below)
    ends = [math.log(s / (1 - s)) for s in (low, high)]
    return 1 / (1 + math.exp(-(ends[0] + part * (ends[1] - ends[0]))))


def settled(logs: Logs, low: float, high: float, level: float) -> float:
    """Return the estimated crossing, no farther from either end than half of `WIDTH`."""
    estimate = between(logs, low, high, level)
    return round(min(max(estimate, high - WIDTH / 2), low + WIDTH / 2), 4)


def crossings_of_seeds(curve: Curve, level: float) -> dict[int | None, float | None]:
    """Return the crossing of each seed, estimated from the same points."""
    found: dict[int | None, float | None] = {}
    for seed in sorted({seed for ratios in curve.values() for seed in ratios}, key=str):
        logs = {s: mean_log({seed: r[seed]}) for s, r in curve.items() if seed in r} | {0.0: 0.0}
        low, high = bracket(logs, level)
        found[seed] = None if high is None else between(logs, low, high, level)
    return found
