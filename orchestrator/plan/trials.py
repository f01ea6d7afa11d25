"""Pure packing: which stages are missing, and which trial walks which of them.

A worker group costs 10 to 30 seconds to start, so branches of one model and method share one as
long as there is no free slot for another.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.plan.branches import Branch, cut_branches
from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import identity, row_key
from orchestrator.plan.plan import Plan
from orchestrator.plan.stages import Stage

TRIALS_A_SLOT = 4
"""Trials for each slot, so that slots that are done early take over what is left. By
`experiments/benches/simulate_scheduling.py` 94 % of 100 slots are used, 73 % with one each."""
TRIAL_SECONDS = 200.0
"""What a trial lasts at least where slots have several: ten times what its start costs."""


@dataclass(frozen=True)
class Trial:
    """Stages of one model and method that one worker group walks, parents before children."""

    id: str
    model: str
    method: str
    stages: tuple[Stage, ...]
    cells: tuple[Cell, ...]


def to_run(
    cell: Cell,
    rows: Mapping[str, dict[str, Any]],
    stored: set[str],
    retry_failed: bool,
    stop_perplexity: float | None,
) -> bool:
    """Whether a cell lacks a row or a stage, was interrupted, or is to be tried again.

    Args:
        cell: the cell.
        rows: all rows of the store by key.
        stored: stages whose metrics are in the store.
        retry_failed: whether failed cells run again.
        stop_perplexity: the limit that cells are given up at; a higher one than theirs frees them.
    """
    for evaluation in cell.evaluations:
        row = rows.get(row_key(cell.id, evaluation))
        if row is None or row.get("_interrupted"):
            return True
        if row["status"] in ("failed", "not_run") and retry_failed:
            return True
        if row["status"] == "stopped":
            if stop_perplexity is None or row["_stopped_at"] <= stop_perplexity:
                return True
        # Set aside as damaged: what a row says of its model has to be true.
        if row["status"] == "done" and not stored.issuperset(cell.all_stages()[1:]):
            return True
    return False


def needed_stages(
    plan: Plan, cells: Iterable[Cell], stored: set[str], with_weights: set[str]
) -> set[str]:
    """Stages to run for some cells.

    Args:
        plan: the whole plan.
        cells: the cells wanted.
        stored: stages whose metrics are in the store.
        with_weights: stages whose weights are there too, so that children can start from them.
    """
    needed: set[str] = set()

    def need_weights(stage_id: str) -> None:
        stage = plan.stages[stage_id]
        if stage_id in with_weights or stage.kind == "dense":
            return
        needed.add(stage_id)
        assert stage.parent is not None
        need_weights(stage.parent)

    for cell in cells:
        for stage_id in (*cell.evaluations, *cell.before):
            parent = plan.stages[stage_id].parent
            if stage_id not in stored:
                assert parent is not None
                needed.add(stage_id)
                need_weights(parent)
        for stage_id in cell.stages:
            if stage_id not in stored and plan.stages[stage_id].kind != "dense":
                need_weights(stage_id)
    return needed


def dropped_cells(plan: Plan, manifests: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """Cells that are done and whose own weights the keep policy of then did not keep."""
    lost = {stage for stage, manifest in manifests.items() if manifest.get("dropped")}
    return [cell for cell in plan.cells.values() if cell.stages[-1] in lost]


def pack_trials(
    plan: Plan,
    cells: list[Cell],
    needed: set[str],
    costs: Mapping[str, float],
    num_slots: int,
) -> list[Trial]:
    """Packs the needed stages into as few trials as keep the slots busy.

    A trial holds branches of one model and method. With one slot there is one trial per model and
    method; with more, each gets several, the branches spread so that the longest is short. A stage
    is in two trials only where the branches below it would otherwise wait for each other (see
    branches.py); each cell is in one.
    """
    groups = {key: [] for key in dict.fromkeys((cell.model, cell.method) for cell in cells)}
    # A cell whose stages are all there but whose row is missing still needs a trial to write it.
    count = num_trials(sum(costs.get(stage, 0.0) for stage in needed), num_slots)
    groups |= cut_branches(plan, needed, costs, count)
    shares = share_trials(groups, costs, count)
    wanted: dict[tuple[str, str], list[Cell]] = {key: [] for key in groups}
    for cell in cells:
        wanted[cell.model, cell.method].append(cell)
    trials = []
    for (model, method), branches in groups.items():
        bundles = spread(branches, costs, shares[model, method])
        mine = share_cells(wanted[model, method], bundles, needed)
        trials += [
            make_trial(model, method, *pair) for pair in zip([*bundles, []], mine) if any(pair)
        ]
    if num_slots > 1:
        # Tune starts trials in this order; the longest first leaves least to wait for at the end.
        trials.sort(key=lambda trial: -sum(costs.get(stage.id, 0.0) for stage in trial.stages))
    return trials


def num_trials(seconds: float, num_slots: int) -> int:
    """Trials that work of so many seconds is worth on a number of slots."""
    if num_slots == 1:
        return 1
    return max(num_slots, min(TRIALS_A_SLOT * num_slots, int(seconds / TRIAL_SECONDS)))


def shared_stages(trials: Iterable[Trial]) -> set[str]:
    """Stages that more than one trial walks: none of them may drop their weights."""
    counts = Counter(stage.id for trial in trials for stage in trial.stages)
    return {stage for stage, count in counts.items() if count > 1}


def share_cells(
    cells: list[Cell], bundles: list[list[Stage]], needed: set[str]
) -> list[list[Cell]]:
    """Cells by the first bundle that runs all they lack; those that lack nothing come last."""
    runs: dict[str, set[int]] = {}
    for i, bundle in enumerate(bundles):
        for stage in bundle:
            runs.setdefault(stage.id, set()).add(i)
    mine: list[list[Cell]] = [[] for _ in range(len(bundles) + 1)]
    for cell in cells:
        lacks = [runs[stage] for stage in {*cell.all_stages()} & needed]
        mine[min(set.intersection(*lacks)) if lacks else -1].append(cell)
    return mine


def share_trials(
    groups: Mapping[tuple[str, str], list[Branch]],
    costs: Mapping[str, float],
    count: int,
) -> dict[tuple[str, str], int]:
    """Trials of each group, at least one: further ones go to where most work waits for each."""
    work = {
        key: sum(branch.seconds(costs) for branch in branches) for key, branches in groups.items()
    }
    shares = dict.fromkeys(groups, 1)
    heap = [(-work[key], i, key) for i, key in enumerate(groups) if len(groups[key]) > 1]
    heapq.heapify(heap)
    for _ in range(count - len(groups)):
        if not heap:
            break
        _, i, key = heapq.heappop(heap)
        shares[key] += 1
        if shares[key] < len(groups[key]):
            heapq.heappush(heap, (-work[key] / shares[key], i, key))
    return shares


def spread(branches: list[Branch], costs: Mapping[str, float], count: int) -> list[list[Stage]]:
    """Splits branches into at most `count` bundles, the dearest first to the cheapest bundle."""
    cost = [branch.seconds(costs) for branch in branches]
    load = [0.0] * min(count, len(branches))
    bundle_of = [0] * len(branches)
    for i in sorted(range(len(branches)), key=lambda i: -cost[i]):
        bundle_of[i] = min(range(len(load)), key=load.__getitem__)
        load[bundle_of[i]] += cost[i]
    # Within a bundle branches keep the order of the grid: evaluations first, sparsities rising.
    bundles: list[dict[str, Stage]] = [{} for _ in load]
    for branch, i in zip(branches, bundle_of):
        bundles[i] |= {stage.id: stage for stage in branch.stages}
    return [list(bundle.values()) for bundle in bundles]


def make_trial(model: str, method: str, stages: list[Stage], cells: list[Cell]) -> Trial:
    """A trial named by its contents."""
    trial_id = identity([sorted(s.id for s in stages), sorted(c.id for c in cells)])[:12]
    return Trial(trial_id, model, method, tuple(stages), tuple(cells))


def tune_view(trial: Trial) -> dict[str, Any]:
    """What Tune's table and loggers show of a trial."""
    return {
        "id": trial.id,
        "model": trial.model,
        "method": trial.method,
        "regimes": sorted({cell.regime for cell in trial.cells}),
        "targets": sorted({cell.target.label for cell in trial.cells}),
        "num_cells": len(trial.cells),
    }
