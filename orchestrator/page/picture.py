"""A board as a static picture in SVG: it needs no script, prints, goes by mail, and into papers.

The vertical axis is the ratio to the dense model on a log scale. The focused picture ends at
`scale.CAP`, and lines that rise above it leave it at the top; the full one shows every value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape as escaped

from orchestrator.page.palette import DASHES, color_of
from orchestrator.page.scale import BOTTOM, LEFT, PLOT_HEIGHT, TOP, Scale, scale_of
from orchestrator.results.board import Board, Line
from orchestrator.results.points import Point
from orchestrator.results.published import Published

STROKES = {"dot": "2 4", "dash": "8 4", "solid": ""}
LABEL = 15
"""Least distance of two labels, in pixels."""
LANE = 11
"""Height of one row of marks of cells without a value."""
MAX_LANES = 6
SWATCH = 26
"""Length of the stroke before a label, in the colour and dash of its line."""
LETTER = 7.6
"""Width of a letter, a little more than the mean."""
MAX_NAME = 44
"""Letters of a label; of a longer name both ends are shown."""
TROUBLE_SIGNS = {"failed": "×", "non-finite": "▲", "stopped": "■", "not_run": "–"}
AXIS = "sparsity; the vertical axis is perplexity to dense"
PAPER = (
    "text{font:13px Helvetica,Arial,sans-serif}text:not([fill]){fill:#1d2328}"
    "text.title{font-size:15px}text[fill]{font-weight:600}"
    ".grid{stroke:#cfd5d9;stroke-width:1}.lead{stroke:#565f67;stroke-width:0.7}"
)
"""Style of a picture that stands alone: dark on white."""


def picture(board: Board) -> str:
    """Return the picture for the page as one `svg` element; empty if there is nothing to draw."""
    if board.dense_perplexity is None or not board.targets:
        return ""
    width, height, parts = drawn(board, (), False, TOP)
    told = f"Ratio to the dense perplexity, {board.model} on {board.evaluation.text}"
    head = f'class="static" viewBox="0 0 {width} {height}" role="img" aria-label="{escaped(told)}"'
    return f"<svg {head}>{''.join(parts)}</svg>"


def lone_picture(board: Board, published: Iterable[Published], full: bool) -> str:
    """Return the picture as a file of its own, with a title; empty if there is nothing to draw."""
    if board.dense_perplexity is None or not board.targets:
        return ""
    width, height, parts = drawn(board, published, full, TOP + 26)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    title = escaped(f"{board.model} on {board.evaluation}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><title>{title}</title>'
        f'<style>{PAPER}</style><rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text class="title" x="{LEFT}" y="20">{title}</text>{"".join(parts)}</svg>\n'
    )


def drawn(
    board: Board, published: Iterable[Published], full: bool, top: float
) -> tuple[int, int, list[str]]:
    """Return width, height and elements of a picture whose first row is at `top`."""
    lane = lane_height(board)
    named = [line for line in board.lines if any(p and p.perplexity for p in line.cells)]
    height = max(PLOT_HEIGHT, LABEL * len(named))
    scale = scale_of(board, full, top + lane, height)
    longest = max((min(len(line.name), MAX_NAME) for line in named), default=0)
    width = round(scale.right + SWATCH + 30 + LETTER * longest)
    parts = [*axes(board, scale), *lane_marks(board, scale, lane)]
    parts += [inside(scale, (part for line in board.lines for part in band(board, line, scale)))]
    parts += [part for line in board.lines for part in curve(board, line, scale)]
    parts += [*published_marks(board, published, scale), *labels(board, scale)]
    return width, round(scale.bottom + BOTTOM), parts


def axes(board: Board, scale: Scale) -> Iterable[str]:
    """Return grid lines and the labels of both axes."""
    for tick in scale.ticks():
        y = scale.y(tick)
        yield stroke([(LEFT, y), (scale.right, y)], "grid")
        yield text(LEFT - 6, y + 4, tick_text(tick), "end")
    for place, target in zip(scale.targets, board.targets):
        x = scale.x(place)
        yield stroke([(x, scale.top), (x, scale.bottom)], "grid")
        yield text(x, scale.bottom + 16, target.label, "middle")
    yield text((LEFT + scale.right) / 2, scale.bottom + BOTTOM - 6, AXIS, "middle")


def tick_text(ratio: float) -> str:
    """Return a ratio as `1.5×`, `300×`, `30k×`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if ratio >= size:
            return f"{ratio / (1e3 if unit == 'k' else size):.3g}{unit}×"
    return f"{ratio:.4g}×"


def inside(scale: Scale, parts: Iterable[str]) -> str:
    """Return elements that are cut at the edges of the plot."""
    place = f'x="{LEFT}" y="{scale.top}" width="{scale.right - LEFT}" height="{scale.height}"'
    box = f"{LEFT} {scale.top} {scale.right - LEFT} {scale.height}"
    return f'<svg {place} viewBox="{box}">{"".join(parts)}</svg>'


def lost_cells(board: Board) -> list[tuple[int, Line, Point]]:
    """Return the cells without a value, each after its column."""
    return [
        (column, line, point)
        for line in board.lines
        for column, point in enumerate(line.cells)
        if point and point.perplexity is None and not line.is_control
    ]


def lane_height(board: Board) -> float:
    """Return the height of the lane above the plot; 0 if every cell has a value."""
    counts = Counter(column for column, _, _ in lost_cells(board))
    return LANE * min(MAX_LANES, max(counts.values(), default=0)) + 6 * bool(counts)


def lane_marks(board: Board, scale: Scale, lane: float) -> Iterable[str]:
    """Return marks of cells without a value in the lane above the plot, and the lane's name."""
    seen: Counter[int] = Counter()
    for column, line, point in lost_cells(board):
        y = scale.top - lane + LANE * (seen[column] % MAX_LANES) + 9
        seen[column] += 1
        look = f' fill="{color_of(line.method)}" font-weight="700"'
        x = scale.x(scale.targets[column])
        yield text(x, y, TROUBLE_SIGNS.get(point.status, "?"), "middle", look)
    if seen:
        told = "no value: × failed, ▲ not finite, ■ stopped, – not run"
        yield text(LEFT - 6, scale.top - lane + 9, "no value", "end")
        yield f"<desc>{escaped(told)}</desc>"


def look_of(line: Line) -> str:
    """Return the dash of a line as SVG has it."""
    return "2 4" if line.is_control else STROKES.get(DASHES.get(line.regime, ""), "8 3 2 3")


def curve(board: Board, line: Line, scale: Scale) -> Iterable[str]:
    """Return the strokes and marks of one line; it breaks where a value is absent."""
    color = color_of(line.method)
    look = f'stroke="{color}" stroke-width="2" stroke-dasharray="{look_of(line)}"'
    for run in runs(board, line, scale):
        yield stroke(run, "line", look)
    for x, y, point in marks(board, line, scale):
        radius, spread = (5, point.std) if point.mask_structure else (3, None)
        if spread and point.perplexity and board.dense_perplexity:
            ends = (point.perplexity - spread, point.perplexity + spread)
            bar = [(x, height_of(scale, end / board.dense_perplexity)) for end in ends]
            yield stroke(bar, "bar", f'stroke="{color}" stroke-width="1.5"')
        fill = color if point.is_whole else "#ffffff"
        look = f'r="{radius}" fill="{fill}" stroke="{color}"'
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" {look}/>'


def height_of(scale: Scale, ratio: float) -> float:
    """Return the vertical place of an end of a spread, which may be below any ratio."""
    return scale.y(max(ratio, scale.low / 2))


def band(board: Board, line: Line, scale: Scale) -> Iterable[str]:
    """Return mean ± deviation over seeds: a polygon for each unbroken run of sparsities."""
    dense = board.dense_perplexity or 1.0
    found: list[list[tuple[float, float, float]]] = [[]]
    for place, point in placed(line, scale):
        if point is None or not point.perplexity or point.std is None or point.mask_structure:
            found.append([])
            continue
        low, high = ((point.perplexity + side * point.std) / dense for side in (-1, 1))
        found[-1].append((scale.x(place), height_of(scale, low), height_of(scale, high)))
    for run in found:
        if len(run) > 1:
            outline = [(x, high) for x, _, high in run]
            outline += [(x, low) for x, low, _ in reversed(run)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in outline)
            yield f'<polygon points="{path}" fill="{color_of(line.method)}" opacity="0.15"/>'


def placed(line: Line, scale: Scale) -> list[tuple[float, Point | None]]:
    """Return the points of a line by their positions: its columns, and what a search has added."""
    added = () if line.is_control else line.others
    found = [*zip(scale.targets, line.cells), *((each.sparsity, each) for each in added)]
    return sorted(found, key=lambda pair: pair[0])


def marks(board: Board, line: Line, scale: Scale) -> list[tuple[float, float, Point]]:
    """Return the places of points within the picture, each with its point."""
    dense = board.dense_perplexity or 1.0
    return [
        (scale.x(place), scale.y(point.perplexity / dense), point)
        for place, point in placed(line, scale)
        if point and point.perplexity and point.perplexity <= scale.high * dense
    ]


def runs(board: Board, line: Line, scale: Scale) -> list[list[tuple[float, float]]]:
    """Return unbroken runs of points of sparsities; a run ends where it crosses the top."""
    dense = board.dense_perplexity or 1.0
    found: list[list[tuple[float, float]]] = [[]]
    for place, point in placed(line, scale):
        if point is None or not point.perplexity or point.mask_structure:
            found.append([])
            continue
        here = (scale.x(place), scale.y(point.perplexity / dense))
        if here[1] < scale.top:
            if found[-1]:
                found[-1].append(crossing(found[-1][-1], here, scale.top))
            found.append([])
        else:
            found[-1].append(here)
    return [run for run in found if len(run) > 1]


def crossing(
    start: tuple[float, float], end: tuple[float, float], top: float
) -> tuple[float, float]:
    """Return where a stroke meets the top of the picture."""
    part = (start[1] - top) / (start[1] - end[1])
    return start[0] + part * (end[0] - start[0]), top


def published_marks(board: Board, published: Iterable[Published], scale: Scale) -> Iterable[str]:
    """Return hollow marks for the values of papers that the board compares with."""
    places = dict(zip(board.targets, scale.targets))
    for value in published:
        ratio = value.perplexity / (board.dense_perplexity or 1.0)
        if value.target in places and scale.low <= ratio <= scale.high:
            x, y = scale.x(places[value.target]), scale.y(ratio)
            look = f'r="6" fill="none" stroke="{color_of(value.method)}" stroke-width="1.5"'
            told = escaped("; ".join(value.story()))
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" {look}><title>{told}</title></circle>'


def labels(board: Board, scale: Scale) -> Iterable[str]:
    """Return the names at the right ends of lines, moved apart so that none covers another."""
    ends = []
    for line in board.lines:
        strokes, points = runs(board, line, scale), marks(board, line, scale)
        last = strokes[-1][-1] if strokes else points[-1][:2] if points else None
        if last is not None:
            ends.append((last[1], last[0], line))
    ends.sort(key=lambda end: end[:2])
    right = scale.right + 20
    for (y, x, line), place in zip(ends, spread([y for y, _, _ in ends], scale)):
        color = color_of(line.method)
        if y > scale.top:  # A line that leaves at the top would have its lead across all others.
            yield stroke([(x + 4, y), (right - 4, place)], "lead")
        dash = f'stroke="{color}" stroke-width="2.5" stroke-dasharray="{look_of(line)}"'
        yield stroke([(right, place), (right + SWATCH, place)], "swatch", dash)
        yield text(right + SWATCH + 5, place + 4, short(line.name), "start", f' fill="{color}"')


def spread(heights: Sequence[float], scale: Scale) -> list[float]:
    """Return places for labels near some rising heights, `LABEL` apart and beside the plot."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + LABEL if found else scale.top))
    most = scale.bottom
    for i in range(len(found) - 1, -1, -1):
        found[i] = min(found[i], most)
        most = found[i] - LABEL
    return found


def short(name: str) -> str:
    """Return a name of at most `MAX_NAME` letters; settings differ at their ends."""
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME // 2]}…{name[-MAX_NAME // 2 + 1 :]}"


def stroke(points: Iterable[tuple[float, float]], kind: str, look: str = "") -> str:
    """Return a line through some points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}" fill="none" {look}/>'


def text(x: float, y: float, words: str, anchor: str, look: str = "") -> str:
    """Return words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{look}>{escaped(words)}</text>'
