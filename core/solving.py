"""Solves of one block, shared by ranks: statistics summed, rows dealt out, results sent to all.

Matrices that read one input are solved by a team of ranks (`split/plan.py`). Each rank of the team
solves some rows of every matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from core.accelerator import is_accelerator
from core.groups import Group
from core.models.mask_files import Masks
from core.models.matrices import Matrix
from core.pruners.layer_error import relative_error
from core.pruners.pruner import Ask, Pruned, Pruner, PruningError, Solution, require_finite
from core.pruners.quantise import stacked
from core.ranks import Ranks
from core.split.costs import STACK_BYTES, STACKED_COPIES, WIDTH, Machine, Work
from core.split.plan import Team, make_plan, rows_of
from core.targets import MaskStructure, Target


@dataclass(frozen=True)
class Problem:
    """The matrices of a block and what is asked of them."""

    pruner: Pruner
    targets: Mapping[str, Target]
    """Target of each matrix by name."""
    masks: Masks
    """The branch's masks so far; empty if there are none."""


@dataclass(frozen=True)
class Solved:
    """A solved block; the same on every rank."""

    pruned: dict[str, Pruned]
    dampening_frac: float | None
    """The largest damping that a matrix needed; None if the method has none."""
    errors: dict[str, float | None]
    """`layer_error.relative_error` of every matrix."""


@dataclass
class Part:
    """The solves of this rank: its rows of each matrix, or the reason why they failed."""

    pruned: dict[str, Pruned] = field(default_factory=dict)
    dampening_frac: float = 0.0
    error: str | None = None


def solve_block(problem: Problem, groups: Sequence[Group], ranks: Ranks) -> Solved:
    """Solve all matrices of a block and send the results to all ranks (collective).

    It must be called before the new weights are written.

    Raises:
        PruningError: on all ranks alike, naming the layer.
    """
    plan = plan_block(problem, groups, ranks)
    sum_statistics(groups, plan, ranks)
    own: list[Group] = []
    team = ranks
    for each in plan:
        # Every rank takes part in forming every team.
        formed = ranks.among(each.members)
        if ranks.rank in each.members:
            own, team = [groups[i] for i in each.inputs], formed
    part = solve_part(problem, own, team)
    grids = {name: one.grid.cpu() for name, one in part.pruned.items() if one.grid is not None}
    fell_back = {name for name, one in part.pruned.items() if one.fell_back}
    # Each rank knows these facts of its own solves only. Grids are small beside weights. They
    # travel as CPU tensors, because the device of one rank may not exist for another.
    facts = ranks.gather((part.error, part.dampening_frac, grids, fell_back))
    error = next((error for error, *_ in facts if error is not None), None)
    if error is not None:
        raise PruningError(error)
    pruned = {}
    for each in plan:
        for one in (one for i in each.inputs for one in groups[i].matrices):
            found = whole_matrix(part.pruned.get(one.name), one.read(), each.members, ranks)
            parts = [grids[one.name] for _, _, grids, _ in facts if one.name in grids]
            lost = any(one.name in lost for *_, lost in facts)
            pruned[one.name] = replace(found, grid=stacked(parts), fell_back=lost)
    errors: dict[str, float | None] = {}
    for known in ranks.gather(layer_errors(own, pruned, team)):
        errors |= known
    return Solved(pruned, max(frac for _, frac, *_ in facts) or None, errors)


def plan_block(problem: Problem, groups: Sequence[Group], ranks: Ranks) -> list[Team]:
    """Return the teams that solve the inputs of a block."""
    works = [work_of(problem, group) for group in groups]
    return make_plan(works, ranks.size, Machine.of(ranks))


def work_of(problem: Problem, group: Group) -> Work:
    """Return the work of solving the matrices of one input."""
    rows = [one.rows for one in group.matrices]
    work = problem.pruner.work(rows, group.matrices[0].cols)
    structure = problem.targets[group.matrices[0].name].structure
    return work if structure is None else replace(work, selections=0)


def sum_statistics(groups: Sequence[Group], plan: Sequence[Team], ranks: Ranks) -> None:
    """Sum the statistic of each input over all ranks, at the ranks that solve its matrices."""
    for team in plan:
        for statistic in (groups[i].statistic for i in team.inputs):
            for tensor in [] if statistic is None else statistic.tensors():
                if len(team.members) == 1:
                    ranks.sum_to_(tensor, team.members[0])
                else:
                    ranks.sum_(tensor)


def solve_part(problem: Problem, groups: Sequence[Group], team: Ranks) -> Part:
    """Solve this rank's rows of the matrices of some inputs; collective over the team."""
    part = Part()
    solves = [solve for group in groups for solve in by_structure(problem, group)]
    for stack in stacks_of(problem, solves, team):
        asks = [ask_of(problem, group, team) for group in stack]
        found = problem.pruner.prune_stack(asks) if len(stack) > 1 else [None]
        for group, ask, solution in zip(stack, asks, found, strict=True):
            error = None
            try:
                take_(part, problem, group, ask, solution or solve(problem, group, ask, team))
            except PruningError as e:
                error = f"{group.matrices[0].name}: {e}"
            # One rank alone may fail, and the next solve needs them all.
            part.error = team.agree(error)
            if part.error is not None:
                return part
    return part


def by_structure(problem: Problem, group: Group) -> list[Group]:
    """Return the solves of one input: one for each structure, whatever the sparsities."""
    found: dict[MaskStructure | None, list[Matrix]] = {}
    for one in group.matrices:
        found.setdefault(problem.targets[one.name].structure, []).append(one)
    return [Group(matrices, group.statistic) for matrices in found.values()]


def stacks_of(problem: Problem, groups: Sequence[Group], team: Ranks) -> list[list[Group]]:
    """Return groups that are solved at once: experts of equal shapes, as many as memory allows.

    On a CPU each is solved by itself.
    """
    if team.size > 1 or not is_accelerator(team.device):
        return [[group] for group in groups]
    stacks: list[list[Group]] = []
    last: dict[object, list[Group]] = {}
    for group in groups:
        first = group.matrices[0]
        rows, cols = [one.rows for one in group.matrices], first.cols
        key = (*rows, cols, problem.targets[first.name].structure)
        size = WIDTH * STACKED_COPIES * cols * (cols + sum(rows))
        stack = last.get(key)
        alone = group.statistic is None or first.piece.expert is None
        if alone or stack is None or (len(stack) + 1) * size > STACK_BYTES:
            stacks.append(stack := [])
        stack.append(group)
        if not alone:
            last[key] = stack
    return stacks


def ask_of(problem: Problem, group: Group, team: Ranks) -> Ask:
    """Return the question for this rank's rows of the matrices of one input."""
    chosen = group.matrices
    at = [rows_of(one.rows, team.rank, team.size) for one in chosen]
    weights = [one.read()[rows] for one, rows in zip(chosen, at)]
    earlier = None
    if problem.masks:
        earlier = [problem.masks[one.name][rows].to(team.device) for one, rows in zip(chosen, at)]
    targets = [problem.targets[one.name] for one in chosen]
    return Ask(weights, group.statistic, targets, earlier)


def solve(problem: Problem, group: Group, ask: Ask, team: Ranks) -> Solution:
    """Solve this rank's rows of the matrices of one input."""
    if team.size > 1:
        # One rank's rows may be finite where another's are not, but all must stop alike.
        require_finite([one.read() for one in group.matrices])
    return problem.pruner.prune(ask.weights, ask.statistic, ask.targets, ask.masks, team)


def take_(part: Part, problem: Problem, group: Group, ask: Ask, solution: Solution) -> None:
    """Note the solution of one input."""
    for one, before, new in zip(group.matrices, ask.weights, solution.matrices, strict=True):
        if one.name.rpartition(".")[2] in problem.pruner.config.uncompensated:
            new = replace(new, weight=before.masked_fill(~new.mask, 0))
        part.pruned[one.name] = new
    part.dampening_frac = max(part.dampening_frac, solution.dampening_frac or 0.0)


def whole_matrix(part: Pruned | None, weight: Tensor, members: range, ranks: Ranks) -> Pruned:
    """Return a pruned matrix on every rank (collective).

    Args:
        part: this rank's rows of it; None if other ranks solved them.
        weight: the matrix before; it gives shape, dtype and device.
        members: the ranks that solved it, in the order of their rows.
        ranks: all ranks.
    """
    if ranks.size == 1:
        assert part is not None
        return part
    new = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    mask = torch.empty_like(new, dtype=torch.bool)
    for place, member in enumerate(members):
        rows = rows_of(len(weight), place, len(members))
        bits = torch.empty(-(-mask[rows].numel() // 8), dtype=torch.uint8, device=mask.device)
        if member == ranks.rank:
            assert part is not None
            new[rows], bits = part.weight, bits_of(part.mask)
        ranks.broadcast_(new[rows], member)
        ranks.broadcast_(bits, member)
        mask[rows] = mask_of(bits, mask[rows].shape)
    return Pruned(new, mask)


def bits_of(mask: Tensor) -> Tensor:
    """Return the bits of a mask on its device, eight to a byte, row after row."""
    bits = functional.pad(mask.flatten().byte(), (0, -mask.numel() % 8)).view(-1, 8)
    return (bits << torch.arange(8, device=mask.device)).sum(1, dtype=torch.uint8)


def mask_of(bits: Tensor, shape: torch.Size) -> Tensor:
    """Return the mask of a shape whose bits `bits_of` returned."""
    found = (bits[:, None] >> torch.arange(8, device=bits.device)) & 1
    return found.flatten()[: shape.numel()].view(shape).bool()


def layer_errors(
    groups: Sequence[Group], pruned: Mapping[str, Pruned], team: Ranks
) -> dict[str, float | None]:
    """Return the error that the team's solves make in the outputs of each matrix (collective)."""
    return {
        one.name: relative_error(group.statistic, one.read(), pruned[one.name].weight, team)
        for group in groups
        for one in group.matrices
    }
