"""Lines of boards as JSON values that the page's scripts draw; nothing is decided there.

A line is one method and regime with its settings. It names its value in every dimension (sweep,
model, text, method, regime, and each setting that varies), so that the page can split a figure and
give colours by any of them. A further axis of the grid is one more dimension.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.page.gains import bytes_of, seconds_of
from orchestrator.page.palette import look_of
from orchestrator.results.answer import percent
from orchestrator.results.board import Board, Line
from orchestrator.results.curves import Evaluation, number_first
from orchestrator.results.names import CONTROL
from orchestrator.results.numbers import mean_and_std
from orchestrator.results.points import Point
from orchestrator.results.schema import Row, regime_order
from orchestrator.results.verdict import compare, seeds_of

FIRST = ("sweep", "model", "text", "method", "regime")
"""Dimensions that every line has."""
TITLES = {"sweep": "Sweep", "model": "Model", "text": "Evaluation", "method": "Method"}
TITLES |= {"regime": "Regime", "method_settings": "Method settings"}
MAX_PAIRS = 20_000
"""Most targets of all pairs of lines that a page compares beforehand."""


@dataclass(frozen=True)
class Shown:
    """A board as part of a page."""

    sweep: str
    board: Board
    rows: Mapping[str, Row]
    """Rows of the sweep by key."""
    number_of: Mapping[str, int]
    """Places of rows in the page's table, by key."""
    device: str | None = None
    """The device that measured seconds are shown of."""

    @property
    def id(self) -> str:
        """A short name that stays while a sweep runs."""
        return short_id(self.sweep, self.board.model, str(self.board.evaluation))


def short_id(*names: str) -> str:
    """Return eight letters that stand for some names."""
    return f"{zlib.crc32(json.dumps(names).encode()):08x}"


def dimensions_of(shown: Sequence[Shown]) -> dict[str, list[str]]:
    """Return the dimensions, each with its values; settings only if they vary in a method."""
    boards = [(one.sweep, one.board.model, str(one.board.evaluation)) for one in shown]
    lines = [(line, place_of(one, line)) for one in shown for line in pruned_lines(one)]
    values: dict[str, set[str]] = {name: {*found} for name, found in zip(FIRST, zip(*boards))}
    varying: dict[tuple[str, ...], set[str]] = {}
    for line, place in lines:
        settings = line.curve.settings
        for name, value in settings.told().items():
            # Beside the axes of a sweep only what they leave open is a dimension.
            axes = () if name in dict(settings.axes) else map(str, settings.axes)
            varying.setdefault((name, *(place[n] for n in FIRST), *axes), set()).add(value)
    several = [n for n in dict.fromkeys(key[0] for key in varying) if _varies(n, varying)]
    for name in (*FIRST, *several):
        values.setdefault(name, set()).update(place.get(name, "") for _, place in lines)
    order = {name: sorted(found, key=number_first) for name, found in values.items()}
    order["regime"].sort(key=regime_order)
    return order


def pruned_lines(shown: Shown) -> list[Line]:
    """Return the lines of a board without the trained dense model, which is a reference."""
    return [line for line in shown.board.lines if not line.is_control]


def _varies(name: str, varying: Mapping[tuple[str, ...], set[str]]) -> bool:
    return any(len(found) > 1 for key, found in varying.items() if key[0] == name)


def place_of(shown: Shown, line: Line) -> dict[str, str]:
    """Return the value of a line in every dimension."""
    return {
        "sweep": shown.sweep,
        "model": shown.board.model,
        "text": str(shown.board.evaluation),
        "method": line.method,
        "regime": CONTROL if line.is_control else line.regime,
        **line.curve.settings.told(),
    }


def described(dimensions: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Return the dimensions with titles, and a colour, dash and symbol for each value."""
    return [
        {
            "name": name,
            "title": TITLES.get(name, name.replace("_", " ").capitalize()),
            "values": [{"value": v, **look_of(name, v, i)} for i, v in enumerate(values)],
        }
        for name, values in dimensions.items()
    ]


def lines_of(shown: Shown, dimensions: Iterable[str]) -> list[dict[str, Any]]:
    """Return the lines of a board with their points."""
    found = []
    for line in shown.board.lines:
        place = place_of(shown, line)
        found.append(
            {
                "id": line_id(shown, line),
                "board": shown.id,
                "name": line.name,
                "control": line.is_control,
                "at": {name: place.get(name, "") for name in dimensions},
                "points": [point_of(shown, each, each.target.label) for each in line.points],
            }
        )
    return found


def line_id(shown: Shown, line: Line) -> str:
    """Return a short name of a line."""
    return short_id(shown.id, line.name)


def point_of(shown: Shown, point: Point, target: str) -> dict[str, Any]:
    """Return a point: its numbers, its state and the places of its rows."""
    rows = [shown.rows[key] for key in point.rows]
    dense = shown.board.dense_perplexity
    whole = [row for row in rows if row["status"] == "done"] or rows
    left = [
        row["num_prunable"] - row["num_pruned"]
        for row in whole
        if row.get("num_prunable") is not None and row.get("num_pruned") is not None
    ]
    params, size = mean_and_std(left)[0], bytes_of(whole)
    speed = {name: rounded(value) for name, value in seconds_of(whole, shown.device).items()}
    return {
        "x": point.sparsity,
        "target": target,
        "y": point.perplexity,
        "ratio": rounded(point.perplexity / dense if point.perplexity and dense else None),
        "std": rounded(point.std),
        "n": point.num_seeds,
        "of": point.num_seeds + len(point.missing) if point.missing else point.num_seeds,
        "status": point.status,
        "whole": point.is_whole,
        "params": params and round(params),
        "bytes": size and round(size),
        "tokens": round(point.tokens),
        "seconds": rounded(seconds_spent(whole)),
        "rows": [shown.number_of[key] for key in point.rows],
        **speed,
    }


def seconds_spent(rows: Sequence[Row]) -> float | None:
    """Return the mean seconds of pruning and training over the whole history of some rows."""
    sums = [(row.get("prune_seconds") or 0) + (row.get("finetune_seconds") or 0) for row in rows]
    return mean_and_std(sums)[0]


def rounded(value: float | None) -> float | None:
    """Return a value with six figures; a page with many of them is smaller."""
    return None if value is None else float(f"{value:.6g}")


@dataclass(frozen=True)
class Pairs:
    """Comparisons of lines at each common target."""

    found: Mapping[str, dict[str, Any]]
    """Comparisons under `ID ID`."""
    complete: bool
    """False if a page of so many lines leaves some out."""


def pairs_of(shown: Sequence[Shown]) -> Pairs:
    """Return comparisons of pairs of lines, those of one board first.

    Lines of one board are compared with each other. Lines of the same name are compared between
    models and between sweeps, as ratios to their dense models.
    """
    found: dict[str, dict[str, Any]] = {}
    count = 0
    for one, line, other, second in _candidates(shown):
        if count > MAX_PAIRS:
            return Pairs(found, complete=False)
        told = compared(one, line, other, second)
        count += len(told["targets"])
        found[f"{line_id(one, line)} {line_id(other, second)}"] = told
    return Pairs(found, complete=True)


def _candidates(shown: Sequence[Shown]) -> Iterable[tuple[Shown, Line, Shown, Line]]:
    for one in shown:
        lines = one.board.lines
        yield from ((one, a, one, b) for i, a in enumerate(lines) for b in lines[i + 1 :])
    for i, one in enumerate(shown):
        for other in shown[i + 1 :]:
            if as_read(one.board) != as_read(other.board):
                continue
            if (one.sweep == other.sweep) == (one.board.model == other.board.model):
                continue
            named = {line.name: line for line in other.board.lines}
            for line in one.board.lines:
                if line.name in named:
                    yield one, line, other, named[line.name]


def as_read(board: Board) -> Evaluation:
    """Return a board's evaluation without its number of tokens, which another tokenizer changes."""
    return replace(board.evaluation, num_tokens=None)


def compared(one: Shown, line: Line, other: Shown, second: Line) -> dict[str, Any]:
    """Compare two lines at each target that both have."""
    scales = (1.0, 1.0)
    if one.board.model != other.board.model:
        scales = (one.board.dense_perplexity or 1.0, other.board.dense_perplexity or 1.0)
    here = {p.target: p for p in line.cells if p}
    there = {p.target: p for p in second.cells if p}
    targets = sorted(here.keys() & there.keys(), key=lambda target: target.order)
    told = [[t.label, *difference(here[t], there[t], scales)] for t in targets]
    mine, others = line.curve.settings.told(), second.curve.settings.told()
    pairs = ((name, mine.get(name, ""), others.get(name, "")) for name in {**mine, **others})
    differ = [[name, *values] for name, *values in pairs if values[0] != values[1]]
    return {"targets": told, "differ": differ}


def difference(first: Point, second: Point, scales: tuple[float, float]) -> list[str]:
    """Return how much higher the second is, with its 95 % interval, and a word for it."""
    one, other = (
        {seed: value / scale for seed, value in seeds_of(point).items()}
        for point, scale in zip((first, second), scales)
    )
    if not one or not other:
        return ["", "", "no value"]
    lead = compare(other, one)
    word = {"leads": "clearly lower", "trails": "clearly higher", "level": "not told apart"}
    words = word | {"same": "the same number", "unknown": "one seed: no claim"}
    mark = "" if first.is_whole and second.is_whole else " (lacks seeds)"
    spread = ""
    if lead.low is not None and lead.high is not None and lead.basis != "exact":
        spread = f"{signed(lead.low - 1)} to {signed(lead.high - 1)}"
    return [signed(lead.ratio - 1), spread, words[lead.word] + mark]


def signed(part: float) -> str:
    """Return a difference in per cent with its sign."""
    return f"{'−' if part < 0 else '+'}{percent(part)}"
