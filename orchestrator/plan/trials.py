"""Packing: which stages are missing, and which trial walks which of them.

A worker group takes 10 to 30 seconds to start, so branches of one model share one as long as there
is no free slot for another.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from orchestrator.plan.branches import Branch, cut_branches
from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import identity
from orchestrator.plan.plan import Plan
from orchestrator.plan.stages import Stage

TRIALS_A_SLOT = 4
"""Trials for each slot, so that slots that are done early take over what is left. 92 % of 1,000
spot slots are used (`experiments/benches/simulate_scheduling.py`), 88 % with one trial each."""
TRIAL_SECONDS = 200.0
"""Least length of a trial where slots have several: ten times what its start costs."""
LOOK_AHEAD = 50
"""Trials that may start before one that is longer than they are."""


@dataclass(frozen=True)
class Trial:
    """Stages of one model that one worker group walks, parents before children."""

    id: str
    model: str
    stages: tuple[Stage, ...]
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, model: str, stages: list[Stage], cells: list[Cell]) -> Trial:
        """Return a trial named by its contents."""
        trial_id = identity([sorted(s.id for s in stages), sorted(c.id for c in cells)])[:12]
        return cls(trial_id, model, tuple(stages), tuple(cells))

    def tune_view(self) -> dict[str, Any]:
        """Return what Tune's table and loggers show."""
        return {
            "id": self.id,
            "model": self.model,
            "methods": sorted({cell.method for cell in self.cells}),
            "regimes": sorted({cell.regime for cell in self.cells}),
            "targets": sorted({cell.target.label for cell in self.cells}),
            "num_cells": len(self.cells),
        }


def needed_stages(
    plan: Plan, cells: Iterable[Cell], stored: Collection[str], with_weights: Collection[str]
) -> set[str]:
    """Return the stages to run for some cells.

    Args:
        plan: the whole plan.
        cells: the cells wanted.
        stored: stages whose metrics are in the store.
        with_weights: stages whose weights are there too, so that children can start from them.
    """
    needed: set[str] = set()

    def need_weights(stage_id: str | None) -> None:
        while stage_id is not None and stage_id not in with_weights:
            stage = plan.stages[stage_id]
            if stage.parent is not None:
                needed.add(stage_id)
            stage_id = stage.parent

    for stage_id in dict.fromkeys(stage for cell in cells for stage in cell.all_stages()):
        stage = plan.stages[stage_id]
        if stage_id in stored or stage.parent is None:
            continue
        if stage.work.stores_weights:
            need_weights(stage_id)
        else:
            needed.add(stage_id)
            need_weights(stage.parent)
    return needed


def pack_trials(
    plan: Plan,
    cells: Collection[Cell],
    needed: Set[str],
    costs: Mapping[str, float],
    num_slots: int,
) -> list[Trial]:
    """Pack the needed stages into as few trials as keep the slots busy.

    A trial holds branches of one model. With one slot there is one trial for each model. With more,
    a model gets several, the branches spread so that the longest is short. A stage is in two trials
    only where the branches below it would otherwise wait for each other (see branches.py). Each
    cell is in one trial.
    """
    # A cell whose stages are all there but whose row is missing still needs a trial to write it.
    cells_of: dict[str, list[Cell]] = {}
    for cell in cells:
        cells_of.setdefault(cell.model, []).append(cell)
    groups: dict[str, list[Branch]] = {model: [] for model in cells_of}
    count = num_trials(sum(costs.get(stage, 0.0) for stage in needed), num_slots)
    groups |= cut_branches(plan, needed, costs, count)
    shares = share_trials(groups, costs, count)
    trials = []
    for model, branches in groups.items():
        bundles = spread(branches, costs, shares[model])
        mine = share_cells(cells_of.get(model, []), bundles, needed)
        trials += [Trial.of(model, *pair) for pair in zip(bundles or [[]], mine) if any(pair)]
    if num_slots > 1:
        # Tune starts trials in this order; the longest first leaves least to wait for at the end.
        trials.sort(key=lambda trial: -sum(costs.get(stage.id, 0.0) for stage in trial.stages))
        trials = apart(trials, num_slots)
    return trials


def apart(trials: list[Trial], num_slots: int) -> list[Trial]:
    """Order trials so that those with a stage in common do not start together.

    The second of them would wait for the first. So a trial comes before them that shares no stage
    with the last ones, if there is one among the next `LOOK_AHEAD`.
    """
    shared = shared_stages(trials)
    common = {trial.id: shared.intersection(s.id for s in trial.stages) for trial in trials}
    left, found = list(trials), list[Trial]()
    running: Counter[str] = Counter()
    while left:
        free = (
            i for i, t in enumerate(left[:LOOK_AHEAD]) if not any(map(running.get, common[t.id]))
        )
        found.append(left.pop(next(free, 0)))
        running.update(common[found[-1].id])
        if len(found) >= num_slots:
            running.subtract(common[found[-num_slots].id])
    return found


def num_trials(seconds: float, num_slots: int) -> int:
    """Return the number of trials that work of so many seconds is worth."""
    if num_slots == 1:
        return 1
    return max(num_slots, min(TRIALS_A_SLOT * num_slots, int(seconds / TRIAL_SECONDS)))


def shared_stages(trials: Iterable[Trial]) -> set[str]:
    """Return the stages that more than one trial walks: none of them may drop their weights."""
    counts = Counter(stage.id for trial in trials for stage in trial.stages)
    return {stage for stage, count in counts.items() if count > 1}


def share_cells(
    cells: list[Cell], bundles: list[list[Stage]], needed: Set[str]
) -> list[list[Cell]]:
    """Return the cells of each bundle.

    A cell goes to the first bundle that runs all of its missing stages. One that misses no stage,
    but lacks its row, goes to the first bundle, or stands alone where there is none.
    """
    runs: dict[str, set[int]] = {}
    for i, bundle in enumerate(bundles):
        for stage in bundle:
            runs.setdefault(stage.id, set()).add(i)
    mine: list[list[Cell]] = [[] for _ in range(max(1, len(bundles)))]
    for cell in cells:
        lacks = [runs[stage] for stage in {*cell.all_stages()} & needed]
        mine[min(set.intersection(*lacks)) if lacks else 0].append(cell)
    return mine


def share_trials(
    groups: Mapping[str, list[Branch]], costs: Mapping[str, float], count: int
) -> dict[str, int]:
    """Return the number of trials of each model.

    Each model has one. Each further trial goes to the model with the most work for one trial.
    """
    work = {key: sum(branch.seconds(costs) for branch in own) for key, own in groups.items()}
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
    """Split branches into at most `count` bundles, the dearest first to the cheapest bundle."""
    cost = [branch.seconds(costs) for branch in branches]
    bundles: list[dict[str, Stage]] = [{} for _ in range(min(count, len(branches)))]
    loads = [(0.0, i) for i in range(len(bundles))]
    bundle_of = [0] * len(branches)
    for i in sorted(range(len(branches)), key=lambda i: -cost[i]):
        load, bundle_of[i] = loads[0]
        heapq.heapreplace(loads, (load + cost[i], bundle_of[i]))
    # Within a bundle branches keep the order of the grid: evaluations first, sparsities rising.
    for branch, i in zip(branches, bundle_of):
        bundles[i] |= {stage.id: stage for stage in branch.stages}
    return [list(bundle.values()) for bundle in bundles]
