"""Tables for papers, as pure data.

Place in the flow: curves -> **table** -> text. There is one table for each model and evaluation.
Lines are methods and regimes, columns are targets. A number is mean ± sample standard deviation
over seeds. The best of each column is bold. A mean that leaves out a seed (failed, not finite) is
marked and never the best. The caption says the protocol. `typesetting.py` writes the text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from core.targets import Target
from orchestrator.results.curves import Curve, curves_from_rows
from orchestrator.results.names import CONTROL
from orchestrator.results.numbers import format_perplexity
from orchestrator.results.points import Point
from orchestrator.results.schema import Row, key_of

MARK = "!"
"""Stands behind a mean that leaves out a seed."""


@dataclass(frozen=True)
class Line:
    """One method and regime over all targets."""

    method: str
    regime: str
    settings: str
    """Settings that lines of the same method and regime do not share; empty if they share all."""
    cells: tuple[Point | None, ...]
    is_control: bool

    @property
    def name(self) -> str:
        """The name that the table shows."""
        regime = CONTROL if self.is_control else self.regime
        return " ".join(filter(None, (self.method, regime, self.settings)))


@dataclass(frozen=True)
class Table:
    """A model on an evaluation."""

    model: str
    evaluation: str
    caption: str
    targets: tuple[str, ...]
    lines: tuple[Line, ...]

    def is_best(self, line: Line, column: int) -> bool:
        """Return True if no other line reads lower in this column."""
        point = line.cells[column]
        rivals = [other.cells[column] for other in self.lines if not other.is_control]
        whole = [p.perplexity for p in rivals if p and is_whole(p) and p.perplexity is not None]
        if point is None or line.is_control or not is_whole(point) or not whole:
            return False
        assert point.perplexity is not None
        return format_perplexity(point.perplexity) == format_perplexity(min(whole))


def is_whole(point: Point) -> bool:
    """Return True if every seed gave a finite perplexity."""
    return point.status == "done" and point.perplexity is not None


def tables_from_rows(rows: Iterable[Row]) -> list[Table]:
    """Return the tables of the current grid."""
    rows = list(rows)
    by_key = {key_of(row): row for row in rows}
    facets = groupby(curves_from_rows(rows), lambda curve: (curve.model, str(curve.evaluation)))
    return [make_table(list(curves), by_key) for _, curves in facets]


def make_table(curves: Sequence[Curve], rows: Mapping[str, Row]) -> Table:
    """Return the table of the curves of one model and evaluation."""
    pruned = [curve for curve in curves if curve.regime != "dense"]
    targets = {p.target for c in pruned for p in c.points if not c.is_control}
    ordered = sorted(targets, key=lambda target: target.order)
    groups: dict[tuple[str, str, str], dict[Target, Point]] = defaultdict(dict)
    for curve in pruned:
        name = (curve.method, curve.regime, settings_apart(curve, pruned))
        groups[name] |= {point.target: point for point in curve.points}
    lines = [
        Line(*name, tuple(points.get(t) for t in ordered), is_control=name[0] == "dense")
        for name, points in sorted(groups.items(), key=lambda item: item[0][0] != "dense")
    ]
    return Table(
        curves[0].model,
        str(curves[0].evaluation),
        caption_of(curves, rows),
        tuple(target.label for target in ordered),
        tuple(lines),
    )


def settings_apart(curve: Curve, curves: Iterable[Curve]) -> str:
    """Return the settings that curves of the same method, regime and structure do not share."""
    kind = (curve.method, curve.regime, curve.structure)
    alike = [c.settings for c in curves if (c.method, c.regime, c.structure) == kind]
    return " ".join(curve.settings.apart_from(alike))


def caption_of(curves: Sequence[Curve], rows: Mapping[str, Row]) -> str:
    """Return the facts that a reader needs to compare with other work."""
    evaluation = curves[0].evaluation
    mine = [rows[key] for curve in curves for point in curve.points for key in point.rows]
    facts = [f"{evaluation.protocol} protocol"]
    if evaluation.seq_len:
        facts.append(f"windows of {evaluation.seq_len:,} tokens")
    if evaluation.stride and evaluation.stride != evaluation.seq_len:
        facts.append(f"stride {evaluation.stride:,}")
    if evaluation.num_tokens:
        facts.append(f"{evaluation.num_tokens:,} tokens evaluated")
    text = [f"Perplexity of {curves[0].model} on {evaluation.text} ({', '.join(facts)})"]
    dense = [p.perplexity for c in curves if c.regime == "dense" for p in c.points]
    if dense and dense[0] is not None:
        text.append(f"dense {format_perplexity(dense[0])}")
    text += [f"calibration: {told}" for told in calibrations(curves)]
    text += trainings(mine)
    seeds = sorted({row["seed"] for row in mine if row.get("seed") is not None})
    if len(seeds) > 1:
        text.append(f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}")
    elif seeds:
        text.append(f"one seed ({seeds[0]})")
    points = [p for c in curves if c.regime != "dense" for p in c.points]
    text.append("lower is better, the best of each column in bold")
    if any(not is_whole(p) and p.perplexity is not None for p in points):
        text.append(f"{MARK} leaves out seeds that failed or are not finite")
    return "; ".join(text) + "."


def calibrations(curves: Iterable[Curve]) -> list[str]:
    """Return the calibration texts with their sizes."""
    found = {curve.settings.calibration for curve in curves if curve.points}
    told = [f"{c.text}, {c.tokens:,} tokens" for c in found if c.text and c.tokens]
    return sorted(told)


def trainings(rows: Iterable[Row]) -> list[str]:
    """Return the training tokens of each regime that trains, over its cells' whole history."""
    counts: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        if row["status"] == "done" and row["method"] != "dense" and row.get("num_finetune_tokens"):
            counts[row["regime"]].add(row["num_finetune_tokens"])
    told = []
    for regime, tokens in sorted(counts.items()):
        span = [f"{count:,}" for count in sorted({min(tokens), max(tokens)})]
        told.append(f"{regime}: {' to '.join(span)} training tokens")
    return told
