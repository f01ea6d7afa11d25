"""Plan of a block: which ranks solve which inputs' matrices, so that all end at about one time.

A *team* is a run of consecutive ranks. It solves its inputs one after another, each of its ranks
some rows of every matrix. A team of one rank sends nothing while it solves. So large inputs get
large teams, and small ones are dealt out to single ranks. Teams work at the same time, so columns
and choices of masks, which wait for each other within an input, do so less often.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from core.ranks import assign_owners
from core.split.costs import Machine, Work, result_seconds, solve_seconds, statistic_seconds

MOST_INPUTS = 8
"""A block with more inputs (experts) is dealt out to single ranks, which is even enough."""


@dataclass(frozen=True)
class Team:
    """Consecutive ranks and the inputs that they solve, one after another."""

    members: range
    inputs: tuple[int, ...]


def make_plan(works: Sequence[Work], size: int, machine: Machine) -> list[Team]:
    """Return the teams of `size` ranks that end first by the cost model, in the order of ranks.

    Args:
        works: the solves of each input of the block.
        size: ranks.
        machine: their speeds.
    """
    alone = [solve_seconds(work, 1, machine) for work in works]
    owners = assign_owners(alone, size)
    owned = [tuple(i for i, owner in enumerate(owners) if owner == rank) for rank in range(size)]
    plan = teams_of([1] * size, owned)
    if size == 1 or len(works) > MOST_INPUTS:
        return plan

    @functools.cache
    def best(inputs: tuple[int, ...], ranks: int) -> list[Team]:
        """Return the best teams of some ranks; the inputs stand from large to small."""
        found = [teams_of([used], [inputs]) for used in (ranks, 1)]
        weight = sum(alone[i] for i in inputs)
        for cut in range(1, len(inputs)):
            share = ranks * sum(alone[i] for i in inputs[:cut]) / weight
            for first in {math.floor(share), math.ceil(share)} - {0, ranks}:
                teams = best(inputs[:cut], first) + best(inputs[cut:], ranks - first)
                sizes, parts = zip(*((len(team.members), team.inputs) for team in teams))
                found.append(teams_of(sizes, parts))
        return min(found, key=lambda teams: plan_seconds(teams, works, machine))

    order = tuple(sorted(range(len(works)), key=lambda i: -alone[i]))

    def seconds(teams: list[Team]) -> float:
        return plan_seconds(teams, works, machine) + sums_seconds(teams, works, size, machine)

    return min(plan, best(order, size), key=seconds)


def teams_of(sizes: Sequence[int], inputs: Sequence[tuple[int, ...]]) -> list[Team]:
    """Return teams of these sizes, one beside the other."""
    ends = list(itertools.accumulate(sizes))
    return [
        Team(range(end - size, end), part)
        for end, size, part in zip(ends, sizes, inputs, strict=True)
    ]


def plan_seconds(plan: Sequence[Team], works: Sequence[Work], machine: Machine) -> float:
    """Return the seconds after which the last team has solved its inputs."""
    return max(
        sum(solve_seconds(works[i], len(team.members), machine) for i in team.inputs)
        for team in plan
    )


def sums_seconds(plan: Sequence[Team], works: Sequence[Work], size: int, machine: Machine) -> float:
    """Return the seconds in which `size` ranks sum the Hessians of a block for the plan's teams."""
    return sum(
        statistic_seconds(works[i].cols, len(team.members), size, machine)
        for team in plan
        for i in team.inputs
        if works[i].factors
    )


def block_seconds(works: Sequence[Work], size: int, machine: Machine, width: int) -> float:
    """Return the seconds of a block's solves, and of the sums and results that ranks send.

    Args:
        works: the solves of each input of the block.
        size: ranks.
        machine: their speeds.
        width: bytes of a weight.
    """
    plan = make_plan(works, size, machine)
    weights = sum(sum(work.rows) * work.cols for work in works)
    sent = sums_seconds(plan, works, size, machine)
    sent += result_seconds(weights, width, size, machine)
    return plan_seconds(plan, works, machine) + sent


def rows_of(rows: int, rank: int, size: int) -> slice:
    """Return the rows of a matrix that one rank of a team solves."""
    return slice(rows * rank // size, rows * (rank + 1) // size)
