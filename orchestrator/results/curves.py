"""Rows -> curves, as pure data: what belongs on one curve, and what a point says.

Place in the flow: ... -> row -> Parquet -> **curve** -> figure. Optuna's split: the decisions are
here and are what tests assert on; `curves.py` draws them and decides nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.results.numbers import mean_and_std
from orchestrator.results.schema import Row, key_of, regime_order, sort_key
from orchestrator.results.story import story

TROUBLES = ("failed", "non-finite", "stopped", "not_run")
"""What may have befallen a cell or its perplexity, the worst first."""


@dataclass(frozen=True)
class Evaluation:
    """What a perplexity was measured on; perplexities compare only where all of it is equal."""

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
    """What the layer inputs were observed on; all None for a method that needs none."""

    text: str | None
    tokens: int | None
    seq_len: int | None

    def __str__(self) -> str:
        return f"{self.text} {self.tokens or '?'} tokens" if self.text else "no calibration"


@dataclass(frozen=True)
class Point:
    """One target of a curve, over its seeds."""

    sparsity: float
    mask_structure: str | None
    perplexity: float | None
    """Arithmetic mean over the seeds with a finite perplexity; None if there is none."""
    std: float | None
    """Sample standard deviation over the same seeds; None for one."""
    num_seeds: int
    """Seeds behind the mean."""
    status: str
    """`done`, or what befell at least one of the seeds: one of `TROUBLES`."""
    rows: tuple[str, ...]
    """Keys of all rows of the target, those without a perplexity too."""
    story: tuple[str, ...] = ()
    """The rows in words, a line each; plain text, not markup."""


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
    method_settings: str
    schedule: str | None
    budget: str | None
    calibration: Calibration
    points: tuple[Point, ...] = ()
    training: str | None = None
    """What differs from plain training, as JSON; None where nothing does."""

    @property
    def facet(self) -> tuple[str, Evaluation]:
        """What is drawn together: one model on one evaluation."""
        return self.model, self.evaluation

    @property
    def is_control(self) -> bool:
        """Whether this is the dense model trained like the pruned ones."""
        return self.method == "dense" and self.regime != "dense"


def curves_from_rows(rows: Iterable[Row], *, all_grids: bool = False) -> list[Curve]:
    """Groups rows into curves; only seeds are averaged.

    Args:
        rows: Rows of `results.SCHEMA`, of a finished sweep or not.
        all_grids: Also take rows that the current grid no longer asks for.
    """
    rows = sorted((row for row in rows if all_grids or row["in_current_grid"]), key=sort_key)
    identity = _identities(rows)
    groups: dict[Curve, list[Row]] = defaultdict(list)
    for row in rows:
        groups[identity(row)].append(row)
    curves = []
    for curve, members in groups.items():
        if curve.is_control:
            alike = [c for c in groups if (c.facet, c.training) == (curve.facet, curve.training)]
            trained = [row for c in alike for row in groups[c]]
            points = _control_points(members, trained)
        else:
            points = _points(_on_one_branch(curve, members))
        curves.append(replace(curve, points=points))
    return sorted(curves, key=_drawing_order)


def label_of(curve: Curve, curves: Iterable[Curve]) -> str:
    """A curve's name beside its method: the regime, and what else sets it apart from its likes."""
    alike = [c for c in curves if (c.method, c.regime) == (curve.method, curve.regime)]
    words = [curve.regime if not curve.is_control else "fine-tuned alike"]
    for field in ("method_settings", "schedule", "budget", "training", "calibration"):
        if len({getattr(c, field) for c in alike}) > 1:
            words.append(str(getattr(curve, field)))
    return " · ".join(words)


def _drawing_order(curve: Curve) -> tuple[Any, ...]:
    facet = (curve.model, str(curve.evaluation))
    return (*facet, curve.structure or "", curve.method, regime_order(curve.regime))


def _identities(rows: Sequence[Row]) -> Callable[[Row], Curve]:
    """Reads the curve that a row belongs to.

    A cell that failed early may lack what only a finished one knows, such as the number of
    evaluated tokens; it adopts that from its finished siblings where they agree.
    """

    def read(row: Row, names: Iterable[str]) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in names)

    def adopting(by: Sequence[str], fields: Sequence[str]) -> Callable[[Row], tuple[Any, ...]]:
        known: dict[tuple[Any, ...], set[tuple[Any, ...]]] = defaultdict(set)
        for row in rows:
            if row["status"] == "done":
                known[read(row, by)].add(read(row, fields))

        def adopt(row: Row) -> tuple[Any, ...]:
            own = read(row, fields)
            if row["status"] == "done":
                return own
            fits = [
                other
                for other in known[read(row, by)]
                if all(mine is None or mine == theirs for mine, theirs in zip(own, other))
            ]
            return fits[0] if len(fits) == 1 else own

        return adopt

    settings = ("model", "method", "method_settings", "regime", "mask_structure")
    evaluation = adopting(
        ("model", "protocol", "eval_text"),
        ("protocol", "eval_text", "eval_seq_len", "eval_stride", "num_eval_tokens"),
    )
    calibration = adopting(
        settings, ("calibration_text", "calibration_tokens", "calibration_seq_len")
    )
    return lambda row: Curve(
        model=row["model"],
        evaluation=Evaluation(*evaluation(row)),
        method=row["method"],
        regime=row["regime"],
        structure=row.get("mask_structure"),
        method_settings=row.get("method_settings") or "{}",
        schedule=row.get("schedule"),
        budget=row.get("budget"),
        calibration=Calibration(*calibration(row)),
        training=row.get("finetune_settings"),
    )


def _on_one_branch(curve: Curve, rows: list[Row]) -> list[Row]:
    """Leaves out iterative rows that reached their sparsity along another path than the rest.

    With the grid's own schedule all cells of a curve lie on one branch, so every path is a prefix
    of the longest; a linear or cubic schedule gives each target a branch of its own.
    """
    if curve.regime != "iterative" or curve.structure or curve.schedule in ("linear", "cubic"):
        return rows
    paths = {key_of(row): [round(s, 6) for s in row.get("path") or ()] for row in rows}
    newest = max(rows, key=lambda row: (len(paths[key_of(row)]), row.get("finished_at") or ""))
    longest = paths[key_of(newest)]
    return [row for row in rows if paths[key_of(row)] == longest[: len(paths[key_of(row)])]]


def _points(rows: Iterable[Row]) -> tuple[Point, ...]:
    targets: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        targets[round(row["sparsity"], 6)].append(row)
    return tuple(_point(targets[sparsity], sparsity) for sparsity in sorted(targets))


def _point(rows: list[Row], sparsity: float) -> Point:
    # A seed that was run twice (a repaired failure, another path) counts once: done, then newest.
    rows = sorted(rows, key=lambda r: (r["status"] == "done", r.get("finished_at") or ""))
    rows = sorted({row.get("seed"): row for row in rows}.values(), key=sort_key)
    done = [r["perplexity"] for r in rows if r["status"] == "done" and r["perplexity"] is not None]
    mean, std = mean_and_std(done)
    seen = {row["status"] for row in rows}
    if not all(map(math.isfinite, done)):
        seen.add("non-finite")
    status = next((status for status in TROUBLES if status in seen), "done")
    keys = tuple(key_of(row) for row in rows)
    finite = sum(map(math.isfinite, done))
    structure = rows[0].get("mask_structure")
    return Point(sparsity, structure, mean, std, finite, status, keys, story(rows))


def _control_points(control: list[Row], trained: list[Row]) -> tuple[Point, ...]:
    """The control at each sparsity: after as many training tokens, else rounds, as the cells there.

    Iterative cells come first, since every further round of theirs has a control of its own; in a
    sweep without them the control is level.
    """
    rounds: dict[int, list[Row]] = defaultdict(list)
    for row in control:
        rounds[row.get("round") or 1].append(row)
    turn_of = {
        row.get("num_finetune_tokens"): turn
        for turn, members in rounds.items()
        for row in members
        if row["status"] == "done"
    }
    points: dict[float, Point] = {}
    for row in sorted(trained, key=lambda r: (r["regime"] != "iterative", r["status"] != "done")):
        if row["method"] == "dense" or row["regime"] == "oneshot" or row.get("mask_structure"):
            continue
        sparsity = round(row["sparsity"], 6)
        # Of a cell that is not done the count is of what was trained before it failed.
        tokens = row.get("num_finetune_tokens") if row["status"] == "done" else None
        turn = turn_of.get(tokens) if tokens else None
        turn = turn or row.get("round") or len(row.get("path") or ()) or 1
        if turn in rounds and sparsity not in points:
            points[sparsity] = _point(rounds[turn], sparsity)
    return tuple(points[sparsity] for sparsity in sorted(points))
