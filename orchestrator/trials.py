"""Pure packing: which stages are missing, and which trial walks which of them.

A worker group costs 10 to 30 seconds to start, so branches of one model and method share one as
long as there is no free slot for another.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.cell import Cell, Stage, identity
from orchestrator.plan import Plan


@dataclass(frozen=True)
class Trial:
    """Stages of one model and method that one worker group walks, parents before children."""

    id: str
    model: str
    method: str
    stages: tuple[Stage, ...]
    cells: tuple[Cell, ...]


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


def pack_trials(
    plan: Plan,
    cells: list[Cell],
    needed: set[str],
    costs: Mapping[str, float],
    num_slots: int,
) -> list[Trial]:
    """Packs the needed stages into as few trials as fill the slots.

    A trial holds branches of one model and method. With one slot there is one trial per model and
    method; with many, each gets several, the branches spread so that the longest is short. Branches
    that share a stage below the dense model stay together, so nothing is computed twice.
    """
    groups: dict[tuple[str, str], list[list[Stage]]] = {}
    for root in plan.roots():
        by_method: dict[str, list[list[Stage]]] = {}
        for child in plan.children.get(root.id, []):
            branch = [stage for stage in plan.walk(child) if stage.id in needed]
            if branch:
                by_method.setdefault(plan.stages[child].method, []).append(branch)
        for method, branches in by_method.items():
            groups[root.model, method] = branches
    # A cell whose stages are all there but whose row is missing still needs a trial to write it.
    for cell in cells:
        groups.setdefault((cell.model, cell.method), [])
    shares = share_slots(groups, costs, num_slots)
    trials = []
    for (model, method), branches in groups.items():
        wanted = [cell for cell in cells if (cell.model, cell.method) == (model, method)]
        for bundle in spread(branches, costs, shares[model, method]):
            ids = {stage.id for stage in bundle}
            mine = [c for c in wanted if ids & {*c.stages, *c.evaluations, *c.before}]
            trials.append(make_trial(model, method, bundle, mine))
        placed = {cell.id for trial in trials for cell in trial.cells}
        rest = [cell for cell in wanted if cell.id not in placed]
        if rest:
            trials.append(make_trial(model, method, [], rest))
    if num_slots > 1:
        # Tune starts trials in this order; the longest first leaves least to wait for at the end.
        trials.sort(key=lambda trial: -sum(costs.get(stage.id, 0.0) for stage in trial.stages))
    return trials


def share_slots(
    groups: Mapping[tuple[str, str], list[list[Stage]]],
    costs: Mapping[str, float],
    num_slots: int,
) -> dict[tuple[str, str], int]:
    """Slots of each group, at least one: further ones go to where most work waits for each slot."""
    work = {
        key: sum(costs.get(stage.id, 0.0) for branch in branches for stage in branch)
        for key, branches in groups.items()
    }
    shares = dict.fromkeys(groups, 1)
    heap = [(-work[key], i, key) for i, key in enumerate(groups) if len(groups[key]) > 1]
    heapq.heapify(heap)
    for _ in range(num_slots - len(groups)):
        if not heap:
            break
        _, i, key = heapq.heappop(heap)
        shares[key] += 1
        if shares[key] < len(groups[key]):
            heapq.heappush(heap, (-work[key] / shares[key], i, key))
    return shares


def spread(
    branches: list[list[Stage]], costs: Mapping[str, float], count: int
) -> list[list[Stage]]:
    """Splits branches into at most `count` bundles, the dearest first to the cheapest bundle."""
    cost = [sum(costs.get(stage.id, 0.0) for stage in branch) for branch in branches]
    load = [0.0] * min(count, len(branches))
    bundle_of = [0] * len(branches)
    for i in sorted(range(len(branches)), key=lambda i: -cost[i]):
        bundle_of[i] = min(range(len(load)), key=load.__getitem__)
        load[bundle_of[i]] += cost[i]
    # Within a bundle branches keep the order of the grid: evaluations first, sparsities rising.
    bundles: list[list[Stage]] = [[] for _ in load]
    for branch, i in zip(branches, bundle_of):
        bundles[i].extend(branch)
    return bundles


def make_trial(model: str, method: str, stages: list[Stage], cells: list[Cell]) -> Trial:
    """A trial named by its contents."""
    trial_id = identity([sorted(s.id for s in stages), sorted(c.id for c in cells)])[:12]
    return Trial(trial_id, model, method, tuple(stages), tuple(cells))
