"""A board as a static picture in SVG: it needs no script, prints, and goes by mail.

The vertical axis is the ratio to the dense model on a log scale up to `CAP`; lines that rise above
it leave the picture at the top.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape as escaped

from orchestrator.page.palette import DASHES, color_of
from orchestrator.results.board import Board, Line

CAP = 3.0
"""Highest ratio to dense that the focused figure shows."""
TICKS = (1.0, 1.1, 1.2, 1.5, 2.0, 2.5, 3.0)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 380, 52, 210, 14, 34
STROKES = {"dot": "2 4", "dash": "8 4", "solid": ""}
LABEL = 15
"""Least distance of two labels, in pixels."""


@dataclass(frozen=True)
class Scale:
    """Places of values in the picture, in pixels."""

    targets: Sequence[float]
    least: float

    def x(self, place: float) -> float:
        """Return the horizontal place of a target's position."""
        low, high = self.targets[0], self.targets[-1]
        return LEFT + (WIDTH - LEFT - RIGHT) * (place - low) / ((high - low) or 1)

    def y(self, ratio: float) -> float:
        """Return the vertical place of a ratio."""
        part = math.log(ratio / self.least) / math.log(CAP / self.least)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * part


def positions_of(board: Board) -> list[float]:
    """Return where each target stands: a sparsity at itself, structures in columns to the right."""
    plain = [t.sparsity for t in board.targets if t.mask_structure is None]
    last, step = (plain[-1], max(0.06, (plain[-1] - plain[0]) / 8)) if plain else (0.0, 1.0)
    structured = len(board.targets) - len(plain)
    return plain + [last + step * (1 + i) for i in range(structured)]


def picture(board: Board) -> str:
    """Return the picture as one `svg` element; empty if there is nothing to draw."""
    dense, places = board.dense_perplexity, positions_of(board)
    if dense is None or not places:
        return ""
    ratios = [
        point.perplexity / dense
        for line in board.lines
        for point in line.cells
        if point and point.perplexity
    ]
    scale = Scale(places, min([0.98, *ratios]))
    drawn = [part for line in board.lines for part in curve(board, line, scale)]
    return (
        f'<svg class="static" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="'
        f'{escaped(f"Ratio to the dense perplexity, {board.model} on {board.evaluation.text}")}">'
        + "".join([*axes(board, scale), *drawn, *labels(board, scale)])
        + "</svg>"
    )


def axes(board: Board, scale: Scale) -> Iterable[str]:
    """Return grid lines and the labels of both axes."""
    for tick in TICKS:
        if tick >= scale.least:
            y = scale.y(tick)
            yield stroke([(LEFT, y), (WIDTH - RIGHT, y)], "grid")
            yield text(LEFT - 6, y + 4, f"{tick:g}×", "end")
    for place, target in zip(scale.targets, board.targets):
        x = scale.x(place)
        yield stroke([(x, TOP), (x, HEIGHT - BOTTOM)], "grid")
        yield text(x, HEIGHT - BOTTOM + 16, target.label, "middle")
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield text(middle, HEIGHT - 2, "sparsity; the vertical axis is perplexity to dense", "middle")


def curve(board: Board, line: Line, scale: Scale) -> Iterable[str]:
    """Return the strokes and marks of one line; it breaks where a value is absent."""
    dash = "2 4" if line.is_control else STROKES.get(DASHES.get(line.regime, ""), "8 3 2 3")
    look = f'stroke="{color_of(line.method)}" stroke-width="2" stroke-dasharray="{dash}"'
    for run in runs(board, line, scale):
        yield stroke(run, "line", look)
    for x, y, structured in marks(board, line, scale):
        radius = 5 if structured else 3
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{color_of(line.method)}"/>'


def marks(board: Board, line: Line, scale: Scale) -> list[tuple[float, float, bool]]:
    """Return the places of points within the picture, and if each is of a structure."""
    dense = board.dense_perplexity or 1.0
    return [
        (scale.x(place), scale.y(point.perplexity / dense), point.mask_structure is not None)
        for place, point in zip(scale.targets, line.cells)
        if point and point.perplexity and point.perplexity <= CAP * dense
    ]


def runs(board: Board, line: Line, scale: Scale) -> list[list[tuple[float, float]]]:
    """Return unbroken runs of points of sparsities; a run ends where it crosses the cap."""
    dense = board.dense_perplexity or 1.0
    found: list[list[tuple[float, float]]] = [[]]
    for place, point in zip(scale.targets, line.cells):
        if point is None or not point.perplexity or point.mask_structure:
            found.append([])
            continue
        here = (scale.x(place), scale.y(point.perplexity / dense))
        if here[1] < TOP:
            if found[-1]:
                found[-1].append(crossing(found[-1][-1], here))
            found.append([])
        else:
            found[-1].append(here)
    return [run for run in found if len(run) > 1]


def crossing(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """Return where a stroke meets the top of the picture."""
    part = (start[1] - TOP) / (start[1] - end[1])
    return start[0] + part * (end[0] - start[0]), TOP


def labels(board: Board, scale: Scale) -> Iterable[str]:
    """Return the names at the right ends of lines, moved apart so that none covers another."""
    ends = []
    for line in board.lines:
        strokes, points = runs(board, line, scale), marks(board, line, scale)
        last = strokes[-1][-1] if strokes else points[-1][:2] if points else None
        if last is not None:
            ends.append((last[1], last[0], line))
    ends.sort(key=lambda end: end[0])
    below = TOP - LABEL
    for y, x, line in ends:
        below = max(below + LABEL, min(y, HEIGHT - BOTTOM))
        right = WIDTH - RIGHT + 14
        yield stroke([(x + 4, y), (right - 3, below)], "lead")
        name = line.name if len(line.name) < 29 else f"{line.name[:27]}…"
        yield text(right, below + 4, name, "start", f' fill="{color_of(line.method)}"')


def stroke(points: Iterable[tuple[float, float]], kind: str, look: str = "") -> str:
    """Return a line through some points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}" fill="none" {look}/>'


def text(x: float, y: float, words: str, anchor: str, look: str = "") -> str:
    """Return words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{look}>{escaped(words)}</text>'
