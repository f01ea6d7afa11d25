"""Figures of studies: panels of lines in one SVG, which need no library."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from orchestrator.page.palette import SERIES

PLOT_WIDTH, HEIGHT, EDGE, LINE = 260, 240, 48, 12
"""Pixels: width of a plot, height of a panel, edge around its plot, least distance of labels."""


@dataclass(frozen=True)
class Panel:
    """Lines in one plot."""

    title: str
    lines: Mapping[str, Mapping[float, float]]
    """Values by place on the horizontal axis, by name of the line."""
    x_scale: Callable[[float], float] = float
    """Even distances along the horizontal axis, `math.log2` for counts that double."""
    y_scale: Callable[[float], float] = float
    label_width: int = 60
    """Pixels for the names beside the lines."""

    @property
    def width(self) -> int:
        """Width with edges and names, in pixels."""
        return EDGE + PLOT_WIDTH + self.label_width

    def drawn(self, colors: Mapping[str, str]) -> str:
        """Return the panel as elements of an SVG.

        Args:
            colors: those of the lines, by name.
        """
        places = sorted({x for line in self.lines.values() for x in line})
        values = [value for line in self.lines.values() for value in line.values()]
        low, high = min(values), max(max(values), min(values) * 1.01)
        left, right = self.x_scale(places[0]), self.x_scale(places[-1])
        bottom, top = self.y_scale(low), self.y_scale(high)

        def at(x: float, value: float) -> tuple[float, float]:
            along = (self.x_scale(x) - left) / ((right - left) or 1.0)
            up = (self.y_scale(value) - bottom) / (top - bottom)
            return EDGE + PLOT_WIDTH * along, HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * up

        parts = [text(EDGE, 24, self.title)]
        parts += [text(at(x, low)[0], HEIGHT - EDGE + 18, f"{x:g}", "middle") for x in places]
        parts += [text(EDGE - 8, at(places[0], v)[1], f"{v:.4g}", "end") for v in (low, high)]
        ends = {name: at(*max(line.items())) for name, line in self.lines.items()}
        heights = apart({name: y for name, (_, y) in ends.items()})
        for name, line in self.lines.items():
            color = colors[name]
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in itertools.starmap(at, line.items()))
            stroke = f'fill="none" stroke="{color}" stroke-width="2"'
            parts.append(f'<polyline points="{points}" {stroke}/>')
            parts.append(text(ends[name][0] + 4, heights[name], name, "start", color))
        return "".join(parts)


def figure(panels: Sequence[Panel]) -> str:
    """Return panels side by side as one SVG; lines of one name have one color."""
    names = dict.fromkeys(name for panel in panels for name in panel.lines)
    colors = dict(zip(names, itertools.cycle(SERIES)))
    left = [0, *itertools.accumulate(panel.width for panel in panels)]
    parts = [
        f'<g transform="translate({x} 0)">{panel.drawn(colors)}</g>'
        for x, panel in zip(left, panels)
    ]
    size = f'width="{left[-1]}" height="{HEIGHT}" font-family="sans-serif" font-size="11"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return start + '<rect width="100%" height="100%" fill="white"/>' + "".join(parts) + "</svg>"


def apart(heights: Mapping[str, float]) -> dict[str, float]:
    """Return the heights of labels, moved down where one would lie on another."""
    places: dict[str, float] = {}
    last = -math.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        last = places[name] = max(height, last + LINE)
    return places


def text(x: float, y: float, words: str, anchor: str = "start", color: str = "black") -> str:
    """Return a text of the figure."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"'
    return f"<text {place}>{escape(words)}</text>"
