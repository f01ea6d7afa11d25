"""Plan of a block: which ranks solve which inputs' matrices, so that all end at about one time.

A *team* is a run of consecutive ranks. It solves its inputs one after another, each of its ranks
some rows of every matrix. A team of one rank sends nothing while it solves. So large inputs get
large teams, and small ones are dealt out to single ranks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.parallel import assign_owners

Sizes = tuple[tuple[int, tuple[int, ...]], ...]
"""Ranks of each team, with its inputs."""
MOST_INPUTS = 16
"""A block with more inputs (experts) is dealt out to single ranks, which is even enough."""


@dataclass(frozen=True)
class Team:
    """Consecutive ranks and the inputs that they solve, one after another."""

    members: range
    inputs: tuple[int, ...]


def make_plan(count: int, size: int, seconds: Callable[[int, int], float]) -> list[Team]:
    """Return the teams that end first by the cost model, in the order of their ranks.

    Args:
        count: inputs of the block.
        size: ranks.
        seconds: (index of an input, ranks of its team) -> seconds of its solve.
    """
    alone = [seconds(i, 1) for i in range(count)]
    owners = assign_owners(alone, size)
    plan = [
        Team(range(rank, rank + 1), tuple(i for i in range(count) if owners[i] == rank))
        for rank in range(size)
    ]
    if size == 1 or count > MOST_INPUTS:
        return plan

    @functools.cache
    def best(inputs: tuple[int, ...], ranks: int) -> Sizes:
        """Return the sizes of the best teams, each with its inputs."""
        found: list[Sizes] = [((ranks, inputs),), ((1, inputs),)]
        weight = sum(alone[i] for i in inputs)
        for cut in range(1, len(inputs)):
            share = ranks * sum(alone[i] for i in inputs[:cut]) / weight
            for first in {math.floor(share), math.ceil(share)} - {0, ranks}:
                found.append(best(inputs[:cut], first) + best(inputs[cut:], ranks - first))
        return min(found, key=lambda teams: max(sum(seconds(i, n) for i in t) for n, t in teams))

    start, teams = 0, []
    for ranks, inputs in best(tuple(sorted(range(count), key=lambda i: -alone[i])), size):
        teams.append(Team(range(start, start + ranks), inputs))
        start += ranks
    return min(plan, teams, key=lambda each: plan_seconds(each, seconds))


def plan_seconds(plan: Sequence[Team], seconds: Callable[[int, int], float]) -> float:
    """Return the seconds after which the last team ends."""
    return max(sum(seconds(i, len(team.members)) for i in team.inputs) for team in plan)


def rows_of(rows: int, rank: int, size: int) -> slice:
    """Return the rows of a matrix that one rank of a team solves."""
    return slice(rows * rank // size, rows * (rank + 1) // size)
