"""Curves as pure data: which rows belong on one curve, and the settings that set curves apart.

Decisions are made here and in `points.py`, and tests assert on them. The page and the tables only
draw what they are given.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from core.joint_config import BY_SPARSITY
from orchestrator.results.names import CONTROL
from orchestrator.results.points import Point, control_points, points_of
from orchestrator.results.schema import (
    CALIBRATION_COLUMNS,
    EVALUATION_COLUMNS,
    Row,
    axes_in,
    key_of,
    on_each_line,
    regime_order,
    sort_key,
)


@dataclass(frozen=True)
class Evaluation:
    """Facts of a perplexity's measurement; perplexities compare only where all are equal."""

    protocol: str
    text: str
    seq_len: int | None
    stride: int | None
    num_tokens: int | None

    def __str__(self) -> str:
        facts = [self.protocol]
        facts += [f"window {self.seq_len:,}"] if self.seq_len else []
        facts += [f"stride {self.stride:,}"] if self.stride not in (None, self.seq_len) else []
        facts += [f"{self.num_tokens:,} tokens"] if self.num_tokens else []
        return f"{self.text} ({', '.join(facts)})"


@dataclass(frozen=True)
class Calibration:
    """Text on which layer inputs were observed; all None for a method that needs none."""

    text: str | None
    tokens: int | None
    seq_len: int | None

    def __str__(self) -> str:
        return f"{self.text} {self.tokens or '?'} tokens" if self.text else "no calibration"


def number_first(value: str) -> tuple[float, str]:
    """Return a sort key of values that are numbers or words."""
    try:
        return float(value), value
    except ValueError:
        return math.inf, value


@dataclass(frozen=True)
class Settings:
    """All that sets curves of one method and regime apart; nothing else does."""

    method: str
    """Settings of the method that are equal on a whole curve, as JSON."""
    schedule: str | None
    budget: str | None
    training: str | None
    """Settings that differ from plain training, as JSON; None where none does."""
    calibration: Calibration
    axes: tuple[tuple[str, str], ...] = ()
    """Settings in which the blocks of the sweep differ, each with its value, as flags name them.
    They come first in names; the others tell only what these leave open."""

    @classmethod
    def of_row(cls, row: Row) -> Settings:
        """Return the settings that a row names."""
        return cls(
            method=_of_curve(row),
            schedule=row.get("schedule"),
            budget=row.get("budget"),
            training=row.get("finetune_settings"),
            calibration=Calibration(*(row.get(name) for name in CALIBRATION_COLUMNS)),
            axes=tuple((n.replace("_", "-"), value) for n, value in axes_in(row).items()),
        )

    @classmethod
    def columns(cls) -> list[str]:
        """Return the names of the fields that rows always have, beside the axes."""
        return [field.name for field in fields(cls) if field.name != "axes"]

    def told(self) -> dict[str, str]:
        """Return each setting as text, axes first; empty where it plays no part."""
        values = ((name, getattr(self, name)) for name in self.columns())
        texts = {{"method": "method_settings"}.get(name, name): value for name, value in values}
        empty = (None, "{}")
        return {**dict(self.axes), **{n: "" if v in empty else str(v) for n, v in texts.items()}}

    def __str__(self) -> str:
        axes = [f"{name} {value}" for name, value in self.axes]
        values = (getattr(self, name) for name in self.columns())
        return " ".join([*axes, *(str(value) for value in values if value is not None)])

    def apart_from(self, others: Iterable[Settings]) -> list[str]:
        """Return the values, as text, in which these settings and the others are not all equal."""
        seen = [self, *others]
        found = [
            f"{name} {value}"
            for name, value in self.axes
            if len({dict(one.axes).get(name) for one in seen}) > 1
        ]
        alike = [one for one in seen if one.axes == self.axes]
        names = self.columns()
        differ = [name for name in names if len({getattr(one, name) for one in alike}) > 1]
        return found + [str(getattr(self, name)) for name in differ]

    @property
    def order(self) -> list[tuple[str, float, str]]:
        """The order of curves that differ in axes only: numbers rise, then come words."""
        return [(name, *number_first(value)) for name, value in self.axes]

    @property
    def kind_of_training(self) -> tuple[object, ...]:
        """All by which cells of one training are known."""
        return self.training, *(axis for axis in self.axes if axis[0].startswith("finetune."))


@dataclass(frozen=True)
class Curve:
    """Points that differ in sparsity only.

    The fine-tuned dense control is a curve as well: its points stand at the sparsities whose cells
    had the same training.
    """

    model: str
    evaluation: Evaluation
    method: str
    regime: str
    structure: str | None
    """`"N:M"`, or None for unstructured."""
    settings: Settings
    points: tuple[Point, ...] = ()
    within: tuple[float, ...] = ()
    """Ratios to dense that a search has followed the curve for."""

    @property
    def facet(self) -> tuple[str, Evaluation]:
        """Model and evaluation: curves of one facet are drawn together."""
        return self.model, self.evaluation

    @property
    def is_control(self) -> bool:
        """True for the dense model that was trained like the pruned ones."""
        return self.method == "dense" and self.regime != "dense"

    @property
    def shown_regime(self) -> str:
        """The regime as people read it."""
        return CONTROL if self.is_control else self.regime


def curves_from_rows(rows: Iterable[Row], *, all_grids: bool = False) -> list[Curve]:
    """Group rows into curves; only seeds are averaged.

    Args:
        rows: Rows of `schema.SCHEMA`, of a finished sweep or not.
        all_grids: Also take rows that the current grid no longer asks for.
    """
    found = (row for row in rows if all_grids or row["in_current_grid"])
    rows = sorted((each for row in found for each in on_each_line(row)), key=sort_key)
    curve_of = _curve_reader(rows)
    groups: dict[Curve, list[Row]] = defaultdict(list)
    for row in rows:
        groups[curve_of(row)].append(row)
    seeds: dict[tuple[str, Evaluation], set[int]] = defaultdict(set)
    for curve, members in groups.items():
        seeds[curve.facet] |= {row["seed"] for row in members if row.get("seed") is not None}
    curves = []
    for curve, members in groups.items():
        if curve.is_control:
            kind = (curve.facet, curve.settings.kind_of_training)
            alike = [o for o in groups if (o.facet, o.settings.kind_of_training) == kind]
            points = control_points(members, [row for other in alike for row in groups[other]])
        else:
            points = points_of(_on_one_branch(curve, members), seeds[curve.facet])
        within = {ratio for row in members for ratio in row.get("within") or ()}
        curves.append(replace(curve, points=points, within=tuple(sorted(within))))
    return sorted(curves, key=_drawing_order)


def _of_curve(row: Row) -> str:
    """Return the settings of a row's method without those that may differ along one curve.

    Where several penalties are asked for they are an axis. A text that is no JSON stays as it is.
    """
    text = row.get("method_settings") or "{}"
    try:
        found = json.loads(text)
    except ValueError:
        return text
    if not isinstance(found, dict):
        return text
    kept = {name: value for name, value in found.items() if name not in BY_SPARSITY}
    return json.dumps(kept, sort_keys=True)


def label_of(curve: Curve, curves: Iterable[Curve]) -> str:
    """Return a curve's name beside its method: the regime, and settings that set it apart."""
    alike = [c.settings for c in curves if (c.method, c.regime) == (curve.method, curve.regime)]
    return " · ".join([curve.shown_regime, *curve.settings.apart_from(alike)])


def _drawing_order(curve: Curve) -> tuple[Any, ...]:
    facet = (curve.model, str(curve.evaluation))
    name = (*facet, curve.structure or "", curve.method, regime_order(curve.regime))
    return (*name, curve.settings.order)


def _curve_reader(rows: Sequence[Row]) -> Callable[[Row], Curve]:
    """Return a function that gives the curve, still without points, to which a row belongs.

    A cell that failed early may lack facts that only a finished one knows, such as the number of
    evaluated tokens. It takes them from finished cells of the same settings, if those agree.
    """
    evaluation = _adopting(rows, ("model", "protocol", "eval_text"), EVALUATION_COLUMNS)
    alike = ("model", "method", "method_settings", "regime", "mask_structure")
    calibration = _adopting(rows, alike, CALIBRATION_COLUMNS)

    def read(row: Row) -> Curve:
        settings = replace(Settings.of_row(row), calibration=Calibration(*calibration(row)))
        return Curve(
            model=row["model"],
            evaluation=Evaluation(*evaluation(row)),
            method=row["method"],
            regime=row["regime"],
            structure=row.get("mask_structure"),
            settings=settings,
        )

    return read


def _adopting(
    rows: Sequence[Row], by: Sequence[str], columns: Sequence[str]
) -> Callable[[Row], tuple[Any, ...]]:
    """Return a function that reads `columns`, and takes what a row lacks from its likes in `by`."""

    def read(row: Row, names: Sequence[str]) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in names)

    known: dict[tuple[Any, ...], set[tuple[Any, ...]]] = defaultdict(set)
    for row in rows:
        if row["status"] == "done":
            known[read(row, by)].add(read(row, columns))

    def adopt(row: Row) -> tuple[Any, ...]:
        own = read(row, columns)
        if row["status"] == "done":
            return own
        fits = [
            other
            for other in known[read(row, by)]
            if all(mine is None or mine == theirs for mine, theirs in zip(own, other))
        ]
        return fits[0] if len(fits) == 1 else own

    return adopt


def _on_one_branch(curve: Curve, rows: list[Row]) -> list[Row]:
    """Leave out iterative rows that reached their sparsity along another path than the rest.

    With the grid's own schedule a path goes through the grid's sparsities below its target, then to
    the target. So all cells lie on one branch, apart from the last step to a sparsity beside the
    grid. A linear or cubic schedule gives each target a branch of its own.
    """
    own_branches = curve.structure or curve.settings.schedule in ("linear", "cubic")
    if curve.regime != "iterative" or own_branches:
        return rows
    paths = {key_of(row): [round(s, 6) for s in row.get("path") or ()] for row in rows}
    newest = max(rows, key=lambda row: (len(paths[key_of(row)]), row.get("finished_at") or ""))
    longest = paths[key_of(newest)]
    # The newest may lie beside the grid in its last step: the branch itself goes farthest.
    longest = max(path for path in paths.values() if path[:-1] == longest[:-1])

    def is_on_branch(path: list[float]) -> bool:
        return path == [s for s in longest if s < path[-1]] + path[-1:] if path else True

    return [row for row in rows if is_on_branch(paths[key_of(row)])]
