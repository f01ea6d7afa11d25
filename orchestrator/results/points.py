"""Points of curves: the rows of one target, averaged over seeds."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from core.targets import Target
from orchestrator.results.names import target_of
from orchestrator.results.numbers import mean_and_std
from orchestrator.results.schema import Row, key_of, sort_key

TROUBLES = ("failed", "non-finite", "stopped", "not_run")
"""Reasons why a cell or its perplexity is no use, the worst first."""


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
    """`done`, or the worst of `TROUBLES` that a seed has met."""
    rows: tuple[str, ...]
    """Keys of all rows of the target, those without a perplexity too."""
    values: tuple[tuple[int | None, float], ...] = ()
    """Finite perplexities, each after its seed; the seed is None where no seed plays a part."""
    missing: tuple[int, ...] = ()
    """Seeds of the grid that gave no finite perplexity here: lost, or not there yet."""

    tokens: float = 0.0
    """Mean over the seeds of the training tokens of the whole history."""
    searched: bool = False
    """True if only a search has asked for the point: it has no column in tables."""

    @functools.cached_property
    def target(self) -> Target:
        """The sparsity or mask structure that the point stands for."""
        return Target(self.sparsity, self.mask_structure)

    @property
    def is_whole(self) -> bool:
        """True if every seed gave a finite perplexity. Only such a point can be the best."""
        return self.status == "done" and self.perplexity is not None and not self.missing


def points_of(rows: Iterable[Row], seeds: Collection[int] = ()) -> tuple[Point, ...]:
    """Return one point for each sparsity among the rows of a curve, rising.

    Args:
        rows: Rows of one curve.
        seeds: Seeds of the grid; a point that draws something misses those that it lacks.
    """
    targets: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        targets[round(row["sparsity"], 6)].append(row)
    return tuple(_point(targets[sparsity], sparsity, seeds) for sparsity in sorted(targets))


def control_points(control: Iterable[Row], trained: Iterable[Row]) -> tuple[Point, ...]:
    """Return the control's points: at each sparsity after as much training as the cells there.

    Training is compared by tokens, where these are known, else by rounds. Iterative cells come
    first, because each further round of theirs has a control of its own. In a sweep without them
    the control is level.

    Args:
        control: Rows of the dense model after training.
        trained: Rows of cells that were trained in the same way.
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
        if (
            row["method"] == "dense"
            or row["regime"] in ("oneshot", "joint")
            or row.get("mask_structure")
        ):
            continue
        sparsity = round(row["sparsity"], 6)
        # A cell that is not done counts only the tokens before it failed.
        tokens = row.get("num_finetune_tokens") if row["status"] == "done" else None
        turn = turn_of.get(tokens) if tokens else None
        turn = turn or row.get("round") or len(row.get("path") or ()) or 1
        if turn in rounds and sparsity not in points:
            points[sparsity] = _point(rounds[turn], sparsity)
    return tuple(points[sparsity] for sparsity in sorted(points))


def _point(rows: list[Row], sparsity: float, seeds: Collection[int] = ()) -> Point:
    # A seed that ran twice (a repaired failure, another path) counts once: done, then newest.
    rows = sorted(rows, key=lambda r: (r["status"] == "done", r.get("finished_at") or ""))
    rows = sorted({row.get("seed"): row for row in rows}.values(), key=sort_key)
    done = {
        row.get("seed"): row["perplexity"]
        for row in rows
        if row["status"] == "done" and row["perplexity"] is not None
    }
    mean, std = mean_and_std(list(done.values()))
    finite = {seed: value for seed, value in done.items() if math.isfinite(value)}
    seen = {row["status"] for row in rows} | ({"non-finite"} if len(finite) < len(done) else set())
    drawn = {row.get("seed") for row in rows} - {None}
    return Point(
        sparsity,
        target_of(rows[0]).mask_structure,
        mean,
        std,
        len(finite),
        status=next((status for status in TROUBLES if status in seen), "done"),
        rows=tuple(key_of(row) for row in rows),
        values=tuple(finite.items()),
        tokens=mean_and_std([row.get("num_finetune_tokens") or 0 for row in rows])[0] or 0.0,
        searched=all(row.get("searched") for row in rows),
        missing=tuple(sorted(({*seeds, *drawn} if drawn else set()) - finite.keys())),
    )
