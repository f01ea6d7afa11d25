"""The branches that trials are made of, cut into enough parts to keep all slots busy.

A branch is a path from the dense model to some stage, and all stages below that stage. A branch
that takes longer than its share of all work is cut at its first fork. Trials cannot wait for each
other, so each part repeats the path above the fork. Forks happen only below a prune stage from
which several chains of training start: those of several seeds, if the stage does not depend on the
seed, or those with different shares of `--finetune.budget total`. Such a stage is cheap beside
chains that train.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property

from orchestrator.plan.plan import Plan
from orchestrator.plan.stages import Stage


@dataclass(frozen=True)
class Branch:
    """Needed stages: those on a path, their evaluations, and all stages below the path's end."""

    plan: Plan
    needed: Set[str]
    path: tuple[str, ...]
    """Ids of stages, the one below the dense model first."""

    @cached_property
    def stages(self) -> list[Stage]:
        """Stages in the order that a worker group walks them, parents first."""
        above = [
            stage
            for stage_id in self.path[:-1]
            for stage in (self.plan.stages[stage_id], *self.plan.looks_at(stage_id))
        ]
        end = self.plan.stages[self.path[-1]]
        below = self.plan.walk(end.id)
        if not end.work.stores_weights and end.parent is not None:
            # The evaluations of the dense model stay together: its cell has to have all of them.
            below = self.plan.looks_at(end.parent)
        return [stage for stage in (*above, *below) if stage.id in self.needed]

    def seconds(self, costs: Mapping[str, float]) -> float:
        """Return the seconds of all its stages."""
        return sum(costs.get(stage.id, 0.0) for stage in self.stages)

    def parts(self) -> list[Branch]:
        """Return the branches below the first fork, each with the path to it."""
        path = self.path
        while True:
            below = [
                child.id
                for child in self.plan.steps_from(path[-1])
                if any(stage.id in self.needed for stage in self.plan.walk(child.id))
            ]
            if len(below) > 1:
                return [Branch(self.plan, self.needed, (*path, child)) for child in below]
            if not below:
                return []
            path = (*path, below[0])


def cut_branches(
    plan: Plan, needed: Set[str], costs: Mapping[str, float], count: int
) -> dict[str, list[Branch]]:
    """Return the branches of each model; long ones are cut where that shortens the sweep.

    Args:
        plan: the whole plan.
        needed: stages to run.
        costs: seconds by stage; what has none costs nothing.
        count: trials that share the work; a branch longer than the share of one trial is cut.
    """
    found = [
        branch
        for root in plan.roots()
        for child in heads(plan, needed, root)
        if (branch := Branch(plan, needed, (child.id,))).stages
    ]
    order = {child: i for i, child in enumerate(plan.stages)}
    groups: dict[str, list[Branch]] = {}
    for branch in sorted(cut(found, costs, count), key=lambda b: [order[s] for s in b.path]):
        groups.setdefault(plan.stages[branch.path[-1]].model, []).append(branch)
    return groups


def heads(plan: Plan, needed: Set[str], root: Stage) -> list[Stage]:
    """Return the first stages of all branches; one stands for all evaluations of the root."""
    looks = [stage for stage in plan.looks_at(root.id) if stage.id in needed]
    return looks[:1] + plan.steps_from(root.id)


def cut(found: list[Branch], costs: Mapping[str, float], count: int) -> list[Branch]:
    """Cut long branches at their forks.

    A branch longer than one trial's share is cut if its longest part is shorter than the branch by
    at least the seconds that the parts repeat.
    """
    seconds = [branch.seconds(costs) for branch in found]
    total = sum(seconds)
    heap = [(-cost, i, branch) for i, (cost, branch) in enumerate(zip(seconds, found))]
    heapq.heapify(heap)
    # Breaks ties of equal cost in the heap, so that branches are never compared.
    turns = itertools.count(len(heap))
    whole: list[Branch] = []
    while heap:
        cost, _, branch = heapq.heappop(heap)
        parts = branch.parts() if -cost > total / count else []
        costs_of_parts = [part.seconds(costs) for part in parts]
        repeated = sum(costs_of_parts) + cost
        if not parts or repeated > -cost - max(costs_of_parts):
            whole.append(branch)
            continue
        total += repeated
        for part, part_cost in zip(parts, costs_of_parts):
            heapq.heappush(heap, (-part_cost, next(turns), part))
    return whole
