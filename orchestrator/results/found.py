"""The answers of a search: the highest sparsity of each line of a board within each ratio.

Place in the flow: curves -> board -> **answers** -> terminal, page, tables for papers. The search
is repeated from the points of the curves, by the rule that planned its cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.plan.crossing import Crossing, Ratios, follow
from orchestrator.results.board import Board, Line, boards_of
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.points import Point
from orchestrator.results.schema import Row

HEAD = "highest sparsity within"
KEY = "±: half of the last bracket, or the deviation over seeds if that is larger."


@dataclass(frozen=True)
class Found:
    """The answer for one line and one ratio."""

    line: Line
    crossing: Crossing

    @property
    def ratio(self) -> float:
        """The ratio to the dense perplexity."""
        return self.crossing.ratio

    @property
    def is_below_all(self) -> bool:
        """True if nothing that was measured is within the ratio."""
        return self.crossing.value is not None and self.crossing.low == 0.0

    @property
    def reach(self) -> float | None:
        """The sparsity that is known to be within reach; None if the answer is not known."""
        crossing = self.crossing
        if crossing.next is not None:
            return None
        return crossing.low if crossing.value is None else crossing.value

    @property
    def error(self) -> float:
        """The half width of the answer's bracket, or the spread over seeds if that is larger."""
        return max(self.crossing.half_width or 0.0, self.crossing.spread or 0.0)

    @property
    def text(self) -> str:
        """The answer: `0.612 ± 0.005`, `≥ 0.9`, `< 0.01`, or `not known`."""
        crossing = self.crossing
        if crossing.next is not None:
            return "not known"
        if crossing.high is None:
            return f"≥ {crossing.low:g}"
        if self.is_below_all:
            return f"< {crossing.high:g}"
        return f"{crossing.value:.3f} ± {self.error:.3f}"

    @property
    def notes(self) -> list[str]:
        """Sentences on what stands behind the answer, where that is not a plain crossing."""
        crossing, name = self.crossing, f"{self.line.name} within {self.ratio:g}×"
        told = []
        if crossing.next is not None:
            told.append(f"{name}: {crossing.next:g} has no perplexity yet.")
        if crossing.high is None and crossing.next is None:
            told.append(f"{name}: the curve does not cross up to {crossing.low:g}.")
        if lost := [s for s in crossing.lost if s == crossing.high]:
            told.append(f"{name}: {lost[0]:g} counts as above it, but failed or is not finite.")
        if crossing.dips:
            dips = ", ".join(f"{s:g}" for s in crossing.dips)
            told.append(f"{name}: the curve is not monotone, it is above the ratio at {dips} too.")
        return told


def ratios_of(board: Board) -> list[float]:
    """Return the ratios that a search has followed the board's curves for."""
    return sorted({ratio for line in board.lines for ratio in line.curve.within})


def found_on(board: Board) -> list[Found]:
    """Return the answers of a board, line by line; none if nothing was searched."""
    dense = board.dense_perplexity
    return [
        Found(line, crossing_of(line.curve.points, dense, ratio))
        for line in board.lines
        if not line.is_control and line.curve.structure is None
        for ratio in line.curve.within
    ]


def crossing_of(points: Iterable[Point], dense: float | None, ratio: float) -> Crossing:
    """Return how far the search on the points of one curve has come."""
    points = list(points)
    coarse = [point.sparsity for point in points if not point.searched]
    measured = ((p.sparsity, ratios_at(p, dense)) for p in points) if dense else ()
    return follow({s: ratios for s, ratios in measured if ratios is not None}, coarse, ratio)


def ratios_at(point: Point, dense: float) -> Ratios | None:
    """Return the ratios of a point by seed; None if a seed is not there yet."""
    found = {seed: value / dense for seed, value in point.values}
    if point.is_whole:
        return found
    if point.status in ("done", "not_run"):
        return None
    return found | dict.fromkeys(point.missing or (None,), math.inf)


def best_of(found: Sequence[Found], ratio: float) -> list[Found]:
    """Return the answers that reach highest within a ratio, and those that they may not exceed."""
    known = [each for each in found if each.ratio == ratio and each.reach is not None]
    highest = max(known, key=lambda each: each.reach or 0.0, default=None)
    if highest is None or highest.reach is None:
        return []
    least = highest.reach - highest.error
    rest = [e for e in known if e is not highest and (e.reach or 0.0) + e.error > least]
    return [highest, *sorted(rest, key=lambda each: -(each.reach or 0.0))]


def found_lines(board: Board) -> list[str]:
    """Return a sentence for each ratio: the highest sparsity, and the lines that reach it."""
    return [f"Within {r:g}× of dense: {found_within(board, r)}" for r in ratios_of(board)]


def found_within(board: Board, ratio: float, most: int = 3) -> str:
    """Return the highest sparsity within a ratio, and the lines that reach it."""
    best = best_of(found_on(board), ratio)
    if not best:
        return "not known yet."
    names = [each.line.name for each in best]
    more = [f"{len(names) - most} more"] if len(names) > most else []
    return f"sparsity {best[0].text} ({' or '.join(names[:most] + more)})."


def found_table(board: Board) -> list[list[str]]:
    """Return the answers as a table of texts, the header first; empty if nothing was searched."""
    ratios, found = ratios_of(board), found_on(board)
    if not found:
        return []
    texts = {(each.line.name, each.ratio): each.text for each in found}
    names = dict.fromkeys(each.line.name for each in found)
    lines = [[name, *(texts.get((name, ratio), "–") for ratio in ratios)] for name in names]
    return [[HEAD, *(f"{ratio:g}×" for ratio in ratios)], *lines]


def found_notes(board: Board) -> list[str]:
    """Return the notes on all answers of a board."""
    return [note for each in found_on(board) for note in each.notes]


PLAIN = str.maketrans({"·": "", "×": "x", "≥": ">=", "–": "-"})


def found_text(rows: Iterable[Row], width: int = 79) -> str:
    """Return the answers for a terminal: a table for each model and evaluation, empty if none.

    Wider tables go on in further blocks. Apart from ± the text is ASCII.
    """
    lines: list[str] = []
    for board in boards_of(curves_from_rows(rows)):
        if table := found_table(board):
            lines.append(f"{board.model} on {board.evaluation.text}, {HEAD}")
            lines += text_blocks([["", *table[0][1:]], *table[1:]], width)
    return "\n".join("±".join(ascii(part)[1:-1] for part in line.split("±")) for line in lines)


def text_blocks(table: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table, its columns in blocks of at most `width`."""
    names = [" ".join(line[0].translate(PLAIN).split()) for line in table]
    first = max(map(len, names))
    blocks: list[list[str]] = []
    for column in list(zip(*table))[1:]:
        short = [text.translate(PLAIN).replace(" ", "") for text in column]
        size = max(map(len, short)) + 2
        if not blocks or len(blocks[-1][0]) + size > width:
            blocks.append([name.ljust(first) for name in names])
        blocks[-1] = [line + text.rjust(size) for line, text in zip(blocks[-1], short)]
    return [line for block in blocks for line in block]
