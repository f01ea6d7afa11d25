"""The search for the sparsity at which a curve crosses a ratio to the dense perplexity."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from orchestrator.plan.crossing import WIDTH, Crossing, follow, most_asked

COARSE = (0.3, 0.5, 0.7, 0.8, 0.9)
Shape = Callable[[float], float]


def convex(s: float, scale: float = 0.3, power: float = 4.0) -> float:
    """Return a ratio to dense like those of pruned models; 1.0 at sparsity 0."""
    return math.exp(scale * s**power / (1 - s) ** 0.7)


def searched(
    shape: Shape | dict[int | None, Shape],
    ratio: float,
    coarse: tuple[float, ...] = COARSE,
) -> tuple[Crossing, dict[float, dict[int | None, float]]]:
    """Measure whatever is asked for until the search is over."""
    shapes = shape if isinstance(shape, dict) else {None: shape}
    curve: dict[float, dict[int | None, float]] = {}
    while (found := follow(curve, coarse, ratio)).next is not None:
        assert found.next not in curve
        curve[found.next] = {seed: each(found.next) for seed, each in shapes.items()}
    return found, curve


def true_crossing(shape: Shape, ratio: float) -> float:
    """Return the crossing of a rising shape by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if shape(middle) <= ratio else (low, middle)
    return low


@pytest.mark.parametrize("ratio", [1.01, 1.05, 1.1, 1.5, 3.0])
@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("power", [1.0, 2.0, 6.0])
def test_a_rising_curve_is_crossed_within_half_a_hundredth(
    ratio: float, scale: float, power: float
) -> None:
    """The true crossing lies in the bracket, at most 0.005 from the answer, after six cells."""

    def shape(s: float) -> float:
        return convex(s, scale, power)

    found, _ = searched(shape, ratio)
    true = true_crossing(shape, ratio)
    if true >= COARSE[-1]:
        assert (found.low, found.high, found.value, found.asked) == (0.9, None, None, ())
        return
    assert found.value is not None and found.high is not None and found.half_width is not None
    assert found.low <= true <= found.high
    assert abs(found.value - true) <= found.half_width + 1e-9 <= WIDTH / 2 + 2e-4
    assert len(found.asked) <= 6


def test_usual_curves_take_two_or_three_cells() -> None:
    """Interpolation needs half of the cells that halving needs."""
    counts = [
        len(searched(lambda s, a=a, p=p: convex(s, a, p), ratio)[0].asked)
        for a in (0.1, 0.3, 1.0)
        for p in (2.0, 4.0, 6.0)
        for ratio in (1.05, 1.1, 1.5, 3.0)
    ]
    assert sum(counts) / len(counts) < 2.6


def test_any_curve_ends_in_time() -> None:
    """However the points fall, also between coarse sparsities off the lattice, the search ends."""
    rng = random.Random(0)
    for _ in range(3000):
        coarse = sorted({round(rng.uniform(0.01, 0.99), rng.choice((1, 3, 6))) for _ in range(4)})
        found, _ = searched(lambda s: math.exp(rng.gauss(0.1, 0.2)), 1.1, tuple(coarse))
        assert len(found.asked) <= most_asked(coarse)
        assert found.high is None or found.high - found.low <= WIDTH + 1e-9
    assert most_asked(COARSE) == most_asked((0.6,)) == 6
    assert most_asked((0.9,)) == 7


@pytest.mark.parametrize("height", [1.1, 1.1 + 1e-12])
def test_a_flat_curve_ends(height: float) -> None:
    """A curve at the ratio itself is within it; one just above never is."""
    found, _ = searched(lambda s: height, 1.1)
    if height == 1.1:
        assert (found.low, found.high, found.value) == (0.9, None, None)
    else:
        assert found.low == 0.0 and found.value is not None and found.value <= 0.01
        assert len(found.asked) <= 6


def test_a_curve_that_never_crosses_costs_nothing() -> None:
    """The grid ends within the ratio: no cell is added, and `low` says how far it reaches."""
    found, curve = searched(lambda s: 1 + s / 100, 1.05)
    assert (found.low, found.high, found.value, found.half_width) == (0.9, None, None, None)
    assert sorted(curve) == list(COARSE)


def test_failed_cells_count_as_above_and_are_named() -> None:
    """Failures at 0.7 and above bracket the answer by the last cell that works."""
    found, _ = searched(lambda s: math.inf if s > 0.613 else 1.01, 1.5)
    assert found.value == pytest.approx(0.613, abs=WIDTH / 2 + 1e-9)
    assert {0.7, 0.8, 0.9} <= {*found.lost} and len(found.asked) <= 6
    assert searched(lambda s: math.nan if s > 0.613 else 1.01, 1.5)[0] == found


def test_the_highest_crossing_counts_and_dips_are_named() -> None:
    """0.5 is above the ratio and 0.7 is within it again: the answer is above 0.7."""
    found, _ = searched(lambda s: 1.2 if 0.45 < s < 0.55 else convex(s, 0.1), 1.1)
    assert found.low >= 0.7 and found.dips == (0.5,)


def test_the_mean_of_logs_over_seeds_crosses_with_the_spread_of_seeds() -> None:
    """Three seeds around one curve: the crossing of their mean, and each seed's own crossing."""
    shapes = {seed: (lambda s, f=f: convex(s) ** f) for seed, f in enumerate((0.9, 1.0, 1.1))}
    found, _ = searched(shapes, 1.5)
    true = {seed: true_crossing(shape, 1.5) for seed, shape in shapes.items()}
    assert found.value == pytest.approx(true[1], abs=0.005)
    assert found.seeds == pytest.approx(true, abs=0.005)
    spread = max(true.values()) - min(true.values())
    assert found.spread == pytest.approx(spread / 2, rel=0.3)


def test_a_seed_that_fails_makes_its_point_count_as_above() -> None:
    """The mean is over all seeds or over none."""
    shapes: dict[int | None, Shape] = {0: convex, 1: lambda s: math.inf if s > 0.6 else convex(s)}
    found, _ = searched(shapes, 3.0)
    assert found.value == pytest.approx(0.6, abs=0.006) and 0.7 in found.lost


@pytest.mark.parametrize("ratio", [1.05, 1.5])
def test_the_answer_is_the_same_whatever_was_there_before(ratio: float) -> None:
    """Stopped anywhere, and beside points that another ratio asked for, nothing changes."""
    found, curve = searched(convex, ratio)
    others = searched(convex, 1.2)[1]
    order = [*COARSE, *found.asked]
    for count in range(len(order) + 1):
        begun = {s: curve[s] for s in order[:count]} | others
        while (again := follow(begun, COARSE, ratio)).next is not None:
            assert again.next in order
            begun[again.next] = {None: convex(again.next)}
        assert again == found


def test_a_coarse_point_that_lacks_is_measured_first() -> None:
    """Nothing is said, and nothing is asked for, before the coarse grid is whole."""
    found = follow({0.3: {None: 1.0}, 0.7: {None: 2.0}}, (0.3, 0.5, 0.7), 1.5)
    assert found.next == 0.5 and found.value is None and found.asked == ()
