"""Axes of a static picture: places of targets and of ratios to dense, in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.results.board import Board

CAP = 3.0
"""Highest ratio to dense that the focused figure shows."""
PLOT_WIDTH, PLOT_HEIGHT = 640, 332
LEFT, TOP, BOTTOM = 66, 14, 34
STEPS = (
    (1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5, 3, 4, 5, 6, 8),
    (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7),
    (1, 1.5, 2, 3, 5, 7),
    (1, 2, 5),
    (1, 3),
    (1,),
)
"""Ticks within a power of ten, from the densest; all of them have a label."""
MAX_TICKS = 12


@dataclass(frozen=True)
class Scale:
    """Places of values in a picture, in pixels."""

    targets: Sequence[float]
    """Place of each target along the axis, rising."""
    low: float
    """Lowest ratio."""
    high: float
    """Highest ratio."""
    top: float = TOP
    """Upper edge of the plot."""
    height: float = PLOT_HEIGHT

    @property
    def bottom(self) -> float:
        """Lower edge of the plot."""
        return self.top + self.height

    @property
    def right(self) -> float:
        """Right edge of the plot."""
        return LEFT + PLOT_WIDTH

    def x(self, place: float) -> float:
        """Return the horizontal place of a target's position."""
        low, high = self.targets[0], self.targets[-1]
        return LEFT + PLOT_WIDTH * (place - low) / ((high - low) or 1)

    def y(self, ratio: float) -> float:
        """Return the vertical place of a ratio."""
        part = math.log(ratio / self.low) / math.log(self.high / self.low)
        return self.bottom - self.height * part

    def ticks(self) -> list[float]:
        """Return the ratios with a grid line: at most `MAX_TICKS`."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps in STEPS:
            values = [step * 10.0**power for power in powers for step in steps]
            found = [v for v in values if self.low * 0.999 <= v <= self.high * 1.001]
            if len(found) <= MAX_TICKS:
                return found
        return []


def positions_of(board: Board) -> list[float]:
    """Return where each target stands: a sparsity at itself, structures in columns to the right."""
    plain = [t.sparsity for t in board.targets if t.mask_structure is None]
    last, step = (plain[-1], max(0.06, (plain[-1] - plain[0]) / 8)) if plain else (0.0, 1.0)
    structured = len(board.targets) - len(plain)
    return plain + [last + step * (1 + i) for i in range(structured)]


def scale_of(board: Board, full: bool, top: float, height: float) -> Scale:
    """Return the scale of a board's picture: up to `CAP`, or `full` up to its highest value."""
    ratios = list(ratios_of(board))
    high = max([CAP, *(ratio * 1.05 for ratio in ratios)]) if full else CAP
    return Scale(positions_of(board), min([0.98, *ratios]), high, top, height)


def ratios_of(board: Board) -> Iterable[float]:
    """Return the finite ratios to dense of all cells."""
    for line in board.lines:
        for point in line.points:
            if point.perplexity and board.dense_perplexity:
                yield point.perplexity / board.dense_perplexity
