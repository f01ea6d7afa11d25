"""Prunes a model block by block, each on inputs that come from the already pruned blocks.

For each block: gather statistics of every layer's inputs in one forward of the still unpruned
block, sum them over ranks, prune, then run the pruned block to get the next block's inputs (the
order of the SparseGPT code, arXiv 2301.00774). Calibration windows and solves are split over ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.activations import Activations, Group, gather_statistics
from core.models.blocks import decoder_blocks, prunable_linears
from core.models.masks import Masks
from core.parallel import Ranks, assign_owners, gathered, write_
from core.pruners.base import Pruned, Pruner, PruningError
from core.pruners.layer_error import relative_error
from core.pruners.quantise import Grid
from core.targets import Target


@dataclass(frozen=True)
class PruneReport:
    """What pruning a model did."""

    masks: Masks
    """Every prunable matrix, on the CPU of every rank."""
    dampening_frac: float | None
    """The largest damping a layer needed; None where the method has none."""
    grids: dict[str, Grid]
    """Where each matrix's survivors were rounded to; empty where they were not."""
    errors: dict[str, float | None]
    """`layer_error.relative_error` of every matrix: the same on every rank."""
    fell_back: list[str]
    """Matrices whose method did not do better than what it started from (`Pruned.fell_back`)."""


@torch.no_grad()
def prune_(
    model: PreTrainedModel,
    pruner: Pruner,
    target: Target | Mapping[str, Target],
    ranks: Ranks,
    *,
    windows: Tensor | None = None,
    masks: Masks | None = None,
    micro_batch: int = 8,
    compute_dtype: torch.dtype | None = None,
    report: Callable[[int, int], None] | None = None,
) -> PruneReport:
    """Prunes all blocks in place; collective over ranks.

    Args:
        model: a causal LM, sharded by `parallel.shard_` where there are several ranks.
        pruner: the method.
        target: sparsity or N:M for every prunable matrix, or each matrix's own by name.
        ranks: this process among the others.
        windows: calibration tokens [num_samples, seq_len], the same on every rank; None for a
            method without statistics.
        masks: the branch's masks so far; they only grow.
        micro_batch: windows a forward pass.
        compute_dtype: dtype of forward passes, the weights' own by default.
        report: called with (blocks done, blocks) after each block.

    Raises:
        PruningError: on all ranks alike, naming the layer.
    """
    blocks, linears = decoder_blocks(model), prunable_linears(model)
    if isinstance(target, Target):
        target = {name: target for named in linears for name in named}
    activations, kept, dampening, grids = None, dict(masks or {}), [], {}
    errors: dict[str, float | None] = {}
    fell_back: set[str] = set()
    if pruner.statistic is not None:
        assert windows is not None and len(windows) >= ranks.size
        activations = Activations(model, windows, micro_batch, compute_dtype, ranks)
    for index, (block, named) in enumerate(zip(blocks, linears, strict=True)):
        with gathered(block):
            groups = gather_statistics(pruner.statistic, block, index, named, activations, ranks)
            pruned, frac = prune_block(pruner, target, groups, named, masks or {}, ranks)
            # Each rank has the merged statistics of its own solves only.
            errors |= layer_errors(groups, named, pruned, ranks)
        for name, matrix in pruned.items():
            write_(named[name].weight, matrix.weight)
            kept[name] = matrix.mask.cpu()
            if matrix.grid is not None:
                grids[name] = matrix.grid
            if matrix.fell_back:
                fell_back.add(name)
        dampening.extend([] if frac is None else [frac])
        if activations is not None and index + 1 < len(blocks):
            with gathered(block):
                activations.run(block, index, store=True, after=lambda: None)
        if report is not None:
            report(index + 1, len(blocks))
    for part, names in ranks.gather((errors, fell_back)):
        errors |= part
        fell_back |= names
    in_order = {name: errors[name] for named in linears for name in named}
    told = [name for name in in_order if name in fell_back]
    return PruneReport(kept, max(dampening, default=None), grids, in_order, told)


def prune_block(
    pruner: Pruner,
    targets: Mapping[str, Target],
    groups: list[Group],
    named: dict[str, nn.Linear],
    masks: Masks,
    ranks: Ranks,
) -> tuple[dict[str, Pruned], float | None]:
    """Each group is solved by one rank, the work spread evenly, and sent to all."""
    owners = assign_owners((solve_cost(group, named) for group in groups), ranks.size)
    for group, owner in zip(groups, owners):
        if group.statistic is not None:
            for tensor in group.statistic.tensors():
                ranks.sum_to_(tensor, owner)
    results: dict[str, Pruned] = {}
    error, frac = None, torch.zeros(1, dtype=torch.float64)
    for group, owner in zip(groups, owners):
        if owner != ranks.rank or error is not None:
            continue
        try:
            solved, needed = solve_group(pruner, targets, group, named, masks, ranks)
        except PruningError as e:
            error = f"{group.names[0]}: {e}"
            continue
        results.update(solved)
        frac = torch.maximum(frac, torch.tensor([needed], dtype=torch.float64))
    error = ranks.agree(error)
    if error is not None:
        raise PruningError(error)
    for group, owner in zip(groups, owners):
        for name in group.names:
            results[name] = send(results.get(name), named[name].weight, owner, ranks)
    if pruner.config.weight_bits is not None:
        # Small beside weights, and of a shape that only the owner knows.
        for grids in ranks.gather({n: m.grid for n, m in results.items() if m.grid is not None}):
            results |= {name: replace(results[name], grid=grid) for name, grid in grids.items()}
    if ranks.size > 1:
        # The largest damping anywhere: each rank knows only its own solves.
        gathered_fracs = torch.zeros(ranks.size, dtype=torch.float64)
        gathered_fracs[ranks.rank] = frac
        frac = ranks.sum_(gathered_fracs).max()
    return results, frac.item() or None


def layer_errors(
    groups: list[Group], named: dict[str, nn.Linear], pruned: dict[str, Pruned], ranks: Ranks
) -> dict[str, float | None]:
    """What this rank's solves did to the outputs, before the new weights are written."""
    owners = assign_owners((solve_cost(group, named) for group in groups), ranks.size)
    return {
        name: relative_error(group.statistic, named[name].weight, pruned[name].weight)
        for group, owner in zip(groups, owners)
        for name in group.names
        if owner == ranks.rank
    }


def solve_group(
    pruner: Pruner,
    targets: Mapping[str, Target],
    group: Group,
    named: dict[str, nn.Linear],
    masks: Masks,
    ranks: Ranks,
) -> tuple[dict[str, Pruned], float]:
    """The matrices of one input, those with the same target together; and the damping needed."""
    results: dict[str, Pruned] = {}
    frac = 0.0
    for target in dict.fromkeys(targets[name] for name in group.names):
        names = [name for name in group.names if targets[name] == target]
        weights = [named[name].weight for name in names]
        earlier = [masks[name].to(ranks.device) for name in names] if masks else None
        solution = pruner.prune(weights, group.statistic, target, earlier)
        results.update(zip(names, solution.matrices, strict=True))
        frac = max(frac, solution.dampening_frac or 0.0)
    return results, frac


def send(matrix: Pruned | None, weight: Tensor, owner: int, ranks: Ranks) -> Pruned:
    """The owner's matrix on every rank."""
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


def solve_cost(group: Group, named: dict[str, nn.Linear]) -> float:
    """Multiplications of a factor-and-solve: n^3/3 for the factor, rows n^2 for the solve."""
    rows = sum(named[name].out_features for name in group.names)
    cols = named[group.names[0]].in_features
    return cols**3 / 3 + rows * cols**2
