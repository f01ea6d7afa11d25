"""Points of curves: the rows of one target, averaged over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from core.targets import Target
from orchestrator.results.names import target_of
from orchestrator.results.numbers import mean_and_std
from orchestrator.results.schema import Row, key_of, sort_key
from orchestrator.results.story import story

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
    story: tuple[str, ...] = ()
    """The rows in words, a line each; plain text, not markup."""

    @property
    def target(self) -> Target:
        """The sparsity or mask structure that the point stands for."""
        return Target(self.sparsity, self.mask_structure)


def points_of(rows: Iterable[Row]) -> tuple[Point, ...]:
    """Return one point for each sparsity among the rows of a curve, rising."""
    targets: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        targets[round(row["sparsity"], 6)].append(row)
    return tuple(_point(targets[sparsity], sparsity) for sparsity in sorted(targets))


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
        if row["method"] == "dense" or row["regime"] == "oneshot" or row.get("mask_structure"):
            continue
        sparsity = round(row["sparsity"], 6)
        # A cell that is not done counts only the tokens before it failed.
        tokens = row.get("num_finetune_tokens") if row["status"] == "done" else None
        turn = turn_of.get(tokens) if tokens else None
        turn = turn or row.get("round") or len(row.get("path") or ()) or 1
        if turn in rounds and sparsity not in points:
            points[sparsity] = _point(rounds[turn], sparsity)
    return tuple(points[sparsity] for sparsity in sorted(points))


def _point(rows: list[Row], sparsity: float) -> Point:
    # A seed that ran twice (a repaired failure, another path) counts once: done, then newest.
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
    structure = target_of(rows[0]).mask_structure
    return Point(sparsity, structure, mean, std, finite, status, keys, story(rows))
