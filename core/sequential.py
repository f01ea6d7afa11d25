"""Prunes a model block by block, each on inputs that come from the already pruned blocks.

For each block: gather statistics of the inputs of every matrix in one forward of the still unpruned
block, sum them over ranks, prune, then run the pruned block to get the next block's inputs (the
order of the SparseGPT code, arXiv 2301.00774). Calibration windows and solves are split over ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.activations import Activations, Calibration, Group, gather_statistics
from core.finished_blocks import FinishedBlock
from core.models.blocks import Block, prunable_blocks
from core.models.mask_files import Masks
from core.models.residence import residence_of
from core.parallel import Ranks, assign_owners, gathered
from core.pruners.layer_error import relative_error
from core.pruners.pruner import Pruned, Pruner, PruningError
from core.pruners.quantise import Grid
from core.targets import Target


@dataclass(frozen=True)
class PruneReport:
    """Result of pruning a model; the same on every rank."""

    masks: Mapping[str, Tensor]
    """Masks of all prunable matrices, on the CPU; on disk where the model is streamed."""
    dampening_frac: float | None
    """The largest damping that a layer needed; None if the method has none."""
    grids: dict[str, Grid]
    """The grid, on the CPU, to which survivors of each matrix were rounded; empty if none were."""
    errors: dict[str, float | None]
    """`layer_error.relative_error` of every matrix, in model order."""
    fell_back: list[str]
    """Matrices whose method did not do better than its starting point (`Pruned.fell_back`)."""


@torch.no_grad()
def prune_(
    model: PreTrainedModel,
    pruner: Pruner,
    target: Target | Mapping[str, Target],
    ranks: Ranks,
    calibration: Calibration = Calibration(),  # noqa: B008 - it is frozen
    masks: Masks | None = None,
) -> PruneReport:
    """Prune all blocks in place; collective over ranks.

    Args:
        model: a causal LM, sharded by `sharding.shard_` where there are several ranks.
        pruner: the method.
        target: sparsity or N:M for every prunable matrix, or each matrix's own by name.
        ranks: this process among the others.
        calibration: the windows that a method with a statistic observes, and how they run.
        masks: the branch's masks so far; they only grow.

    Raises:
        PruningError: on all ranks alike, naming the layer.
    """
    blocks = prunable_blocks(model)
    names = [name for block in blocks for name in block.matrices]
    targets = dict.fromkeys(names, target) if isinstance(target, Target) else target
    activations = None
    if pruner.statistic is not None:
        batches = calibration.batches(ranks)
        activations = Activations(model, batches, ranks, calibration.compute_dtype)
    place = residence_of(model)
    done: list[FinishedBlock] = []
    for block in blocks:
        with place.changing(block.module):
            finished = calibration.resumption.earlier(block.index)
            if finished is not None:
                for name, weight in finished.weights.items():
                    block.matrices[name].write_(weight)
            else:
                finished = finish_block_(block, pruner, targets, activations, masks or {}, ranks)
                calibration.resumption.keep(finished)
            place.keep(block.module, finished.masks)
            done.append(replace(finished, weights={}, masks={}))
            if activations is not None and block is not blocks[-1]:
                with gathered(block.module):
                    activations.advance(block)
    kept = {**masks, **place.masks} if masks else place.masks
    return report_of(done, names, kept)


def report_of(
    done: Sequence[FinishedBlock], names: Sequence[str], masks: Mapping[str, Tensor]
) -> PruneReport:
    """Return the report of all blocks; `names` gives the order of the matrices."""
    grids: dict[str, Grid] = {}
    errors: dict[str, float | None] = {}
    for block in done:
        grids |= block.grids
        errors |= block.errors
    fracs = [block.dampening_frac for block in done if block.dampening_frac is not None]
    lost = {name for block in done for name in block.fell_back}
    return PruneReport(
        masks=masks,
        dampening_frac=max(fracs, default=None),
        grids=grids,
        errors={name: errors[name] for name in names},
        fell_back=[name for name in names if name in lost],
    )


def finish_block_(
    block: Block,
    pruner: Pruner,
    targets: Mapping[str, Target],
    activations: Activations | None,
    masks: Masks,
    ranks: Ranks,
) -> FinishedBlock:
    """Observe the inputs of one block and prune it in place (collective)."""
    with gathered(block.module):
        groups = gather_statistics(pruner.statistic, block, activations, ranks)
        owners = assign_owners(map(solve_cost, groups), ranks.size)
        pruned, frac = prune_block(pruner, targets, groups, owners, masks, ranks)
        # Each rank has the merged statistics of its own solves only.
        mine = [group for group, owner in zip(groups, owners) if owner == ranks.rank]
        errors = layer_errors(mine, pruned)
    fell_back = {name for name, result in pruned.items() if result.fell_back}
    for part, lost in ranks.gather((errors, fell_back)):
        errors |= part
        fell_back |= lost
    for name, result in pruned.items():
        block.matrices[name].write_(result.weight)
    return FinishedBlock(
        index=block.index,
        weights={name: matrix.read() for name, matrix in block.matrices.items()},
        masks={name: result.mask.cpu() for name, result in pruned.items()},
        grids={name: one.grid for name, one in pruned.items() if one.grid is not None},
        errors=errors,
        fell_back=sorted(fell_back),
        dampening_frac=frac,
    )


def prune_block(
    pruner: Pruner,
    targets: Mapping[str, Target],
    groups: list[Group],
    owners: list[int],
    masks: Masks,
    ranks: Ranks,
) -> tuple[dict[str, Pruned], float | None]:
    """Solve each group on its owner and send the results to all ranks (collective).

    Returns:
        Every matrix by name, and the largest damping that any of them needed.
    """
    for group, owner in zip(groups, owners):
        if group.statistic is not None:
            for tensor in group.statistic.tensors():
                ranks.sum_to_(tensor, owner)
    results: dict[str, Pruned] = {}
    error, frac = None, 0.0
    for group, owner in zip(groups, owners):
        if owner != ranks.rank or error is not None:
            continue
        try:
            solved, needed = solve_group(pruner, targets, group, masks, ranks)
        except PruningError as e:
            error = f"{group.matrices[0].name}: {e}"
            continue
        results.update(solved)
        frac = max(frac, needed)
    error = ranks.agree(error)
    if error is not None:
        raise PruningError(error)
    for group, owner in zip(groups, owners):
        for matrix in group.matrices:
            found = results.get(matrix.name)
            results[matrix.name] = send(found, matrix.read(), owner, ranks)
    if pruner.config.weight_bits is not None:
        # Grids are small beside weights, and only the owner knows their shape. They travel as CPU
        # tensors, because the device of one rank may not exist for another.
        mine = {name: m.grid.cpu() for name, m in results.items() if m.grid is not None}
        for grids in ranks.gather(mine):
            results |= {name: replace(results[name], grid=grid) for name, grid in grids.items()}
    # Each rank knows the damping of its own solves only.
    return results, max(ranks.gather(frac)) or None


def layer_errors(groups: Sequence[Group], pruned: Mapping[str, Pruned]) -> dict[str, float | None]:
    """Return the error that the solves of these groups make in the outputs of each matrix.

    It must be called before the new weights are written.
    """
    return {
        one.name: relative_error(group.statistic, one.read(), pruned[one.name].weight)
        for group in groups
        for one in group.matrices
    }


def solve_group(
    pruner: Pruner,
    targets: Mapping[str, Target],
    group: Group,
    masks: Masks,
    ranks: Ranks,
) -> tuple[dict[str, Pruned], float]:
    """Solve the matrices of one input, those with the same target together.

    Returns:
        Every matrix by name, and the largest damping that any of them needed (0 for none).
    """
    results: dict[str, Pruned] = {}
    frac = 0.0
    for target in dict.fromkeys(targets[one.name] for one in group.matrices):
        chosen = [one for one in group.matrices if targets[one.name] == target]
        weights = [one.read() for one in chosen]
        earlier = [masks[one.name].to(ranks.device) for one in chosen] if masks else None
        solution = pruner.prune(weights, group.statistic, target, earlier)
        results |= {one.name: new for one, new in zip(chosen, solution.matrices, strict=True)}
        frac = max(frac, solution.dampening_frac or 0.0)
    return results, frac


def send(matrix: Pruned | None, weight: Tensor, owner: int, ranks: Ranks) -> Pruned:
    """Return the owner's pruned matrix on every rank; `weight` gives shape, dtype and device."""
    if ranks.size == 1:
        assert matrix is not None
        return matrix
    if matrix is None:
        matrix = Pruned(torch.empty_like(weight), torch.empty_like(weight, dtype=torch.bool))
    matrix = replace(matrix, weight=matrix.weight.detach().contiguous())
    as_bytes = matrix.mask.to(torch.uint8)
    ranks.broadcast_(matrix.weight, owner)
    ranks.broadcast_(as_bytes, owner)
    return replace(matrix, mask=as_bytes.bool())


def solve_cost(group: Group) -> float:
    """Return multiplications of a solve: n^3/3 for the factor, rows n^2 for the rest."""
    rows = sum(one.rows for one in group.matrices)
    cols = group.matrices[0].cols
    return cols**3 / 3 + rows * cols**2
