"""One rule over seeds: which of two cells is better, and which cells of a target are the best.

The page, the terminal and the export show what is decided here; none of them decides by itself.
Perplexities compare as ratios, so all sums are over logarithms.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.results.numbers import mean_and_std
from orchestrator.results.points import Point
from orchestrator.results.student import t_quantile

Seeds = Mapping[int | None, float]
"""Finite perplexities of one cell by seed; the seed is None where no seed plays a part."""


@dataclass(frozen=True)
class Lead:
    """Comparison of one cell with another."""

    ratio: float
    """Geometric mean of the first cell's perplexity over the second's."""
    low: float | None
    """Lower end of the 95 % interval of the ratio; None where one seed tells no spread."""
    high: float | None
    basis: str
    """`paired` (common seeds), `welch` (other seeds), `fixed` (seeds against a value that no seed
    changes), `exact` (no seed plays a part) or `one`."""
    seeds: int
    """Seeds behind the interval."""

    @property
    def word(self) -> str:
        """One word: `leads`, `trails`, `same`, `level` (the interval has 1), `unknown`."""
        if self.low is None or self.high is None:
            return "same" if self.ratio == 1 and self.basis == "exact" else "unknown"
        if self.low == self.high == 1:
            return "same"
        return "leads" if self.high < 1 else "trails" if self.low > 1 else "level"


def compare(first: Seeds, second: Seeds) -> Lead:
    """Compare two cells; each needs one perplexity at least.

    The first leads if, over common seeds, the mean of log(first / second) lies below
    -t(0.975, n - 1) s / sqrt(n). Without common seeds it is Welch's test. One seed tells nothing. A
    perplexity that no seed changes is compared with each seed of the other cell.
    """
    pairs = pairs_of(first, second)
    if set(first) == set(second) == {None}:
        ratio = math.exp(pairs[0])
        return Lead(ratio, ratio, ratio, "exact", 0)
    if len(pairs) > 1:
        mean = statistics.fmean(pairs)
        variance = math.fsum((each - mean) ** 2 for each in pairs) / (len(pairs) - 1)
        half = t_quantile(len(pairs) - 1) * math.sqrt(variance / len(pairs))
        basis = "fixed" if None in {*first, *second} else "paired"
        return _lead(mean, half, basis, len(pairs))
    logs = [[math.log(value) for value in seeds.values()] for seeds in (first, second)]
    mean = pairs[0] if pairs else statistics.fmean(logs[0]) - statistics.fmean(logs[1])
    if min(map(len, logs)) < 2:
        return Lead(math.exp(mean), None, None, "one", 1)
    mean = statistics.fmean(logs[0]) - statistics.fmean(logs[1])
    return _lead(mean, welch_half(*logs), "welch", min(map(len, logs)))


def pairs_of(first: Seeds, second: Seeds) -> list[float]:
    """Return log(first / second) on each common seed; a cell without seeds goes with each."""
    drawn = ({*first} | {*second}) - {None}
    seeds = drawn if drawn and None in {*first, *second} else {*first} & {*second}
    values = [
        (first.get(seed, first.get(None)), second.get(seed, second.get(None))) for seed in seeds
    ]
    return [math.log(one / other) for one, other in values if one and other]


def welch_half(one: Sequence[float], other: Sequence[float]) -> float:
    """Return half the width of Welch's 95 % interval of the difference of two means."""
    parts = [statistics.variance(values) / len(values) for values in (one, other)]
    if sum(parts) == 0:
        return 0.0
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (one, other))
    )
    return t_quantile(freedom) * math.sqrt(sum(parts))


def _lead(mean: float, half: float, basis: str, seeds: int) -> Lead:
    return Lead(math.exp(mean), math.exp(mean - half), math.exp(mean + half), basis, seeds)


@dataclass(frozen=True)
class Standing:
    """Order of the cells of one target, as indices into the cells that were given."""

    best: int | None = None
    """The whole cell with the lowest mean; None if no cell is whole."""
    equals: tuple[int, ...] = ()
    """Whole cells that seeds cannot tell from the best, the lowest first."""
    leads: Mapping[int, Lead] = field(default_factory=dict)
    """The best compared with each other whole cell."""
    order: tuple[int, ...] = ()
    """Whole cells, the lowest mean first."""

    @property
    def certainty(self) -> str:
        """`alone`, `clear`, `level` or `unknown`: what seeds say of the best against the rest."""
        words = {lead.word for lead in self.leads.values()}
        if not words:
            return "alone"
        if "unknown" in words:
            return "unknown"
        return "level" if self.equals else "clear"


def standing(points: Sequence[Point | None]) -> Standing:
    """Rank the cells of one target. A cell that lacks a seed has no place."""
    whole = {i: seeds_of(point) for i, point in enumerate(points) if point and point.is_whole}
    mean_of = {i: mean_and_std(list(seeds.values()))[0] for i, seeds in whole.items()}
    order = sorted(whole, key=lambda i: mean_of[i] or math.inf)
    if not order:
        return Standing()
    leads = {i: compare(whole[order[0]], whole[i]) for i in order[1:]}
    equals = tuple(i for i in order[1:] if leads[i].word not in ("leads", "unknown"))
    return Standing(order[0], equals, leads, tuple(order))


def seeds_of(point: Point) -> Seeds:
    """Return the finite perplexities of a point by seed."""
    return dict(point.values)
