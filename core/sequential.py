"""Prunes a model block by block, each on inputs that come from the already pruned blocks.

For each block: gather statistics of the inputs of every matrix in one forward of the still unpruned
block, sum them over ranks, prune, then run the pruned block to get the next block's inputs (the
order of the SparseGPT code, arXiv 2301.00774). Calibration windows and solves are split over ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from core.activations import Activations, Calibration, gather_statistics
from core.expert_statistics import parts_of_block, routed_tokens
from core.finished_blocks import FinishedBlock
from core.measures.sparsity import assert_growing
from core.methods import require_matrices
from core.models.blocks import Block, prunable_blocks
from core.models.mask_files import Masks, PackedMasks
from core.models.residence import residence_of
from core.parallel import gathered
from core.pruners.pruner import Pruned, Pruner
from core.pruners.quantise import Grid
from core.ranks import Ranks
from core.solving import Problem, solve_block
from core.targets import Target


@dataclass(frozen=True)
class PruneReport:
    """Result of pruning a model; the same on every rank."""

    masks: Masks
    """Masks of all prunable matrices, as bits on the CPU; on disk where the model is streamed."""
    dampening_frac: float | None
    """The largest damping that a layer needed; None if the method has none."""
    grids: dict[str, Grid]
    """The grid, on the CPU, to which survivors of each matrix were rounded; empty if none were."""
    errors: dict[str, float | None]
    """`layer_error.relative_error` of every matrix, in model order."""
    fell_back: list[str]
    """Matrices whose method did not do better than its starting point (`Pruned.fell_back`)."""
    expert_tokens: dict[str, int]
    """Calibration tokens that the router sent to each expert, by the expert's path."""


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
        BadInputError: settings name a matrix that the model does not have.
    """
    blocks = prunable_blocks(model, pruner.config.routers)
    names = [name for block in blocks for name in block.matrices]
    require_matrices(pruner.config, names)
    targets = dict.fromkeys(names, target) if isinstance(target, Target) else target
    activations = None
    if pruner.statistic is not None:
        batches = calibration.batches(ranks)
        dtype, experts = calibration.compute_dtype, calibration.experts
        activations = Activations(model, batches, ranks, dtype, experts)
    place = residence_of(model)
    done: list[FinishedBlock] = []
    for block in blocks:
        with place.changing(block.module):
            finished = calibration.resumption.earlier(block.index)
            if finished is not None:
                for name, weight in finished.weights.items():
                    block.matrices[name].write_(weight())
            else:
                problem = Problem(pruner, targets, masks or {})
                finished = finish_block_(block, problem, activations, ranks)
                calibration.resumption.keep(finished)
            place.keep(block.module, finished.masks)
            done.append(replace(finished, weights={}, masks={}))
            if activations is not None and block is not blocks[-1]:
                with gathered(block.module):
                    activations.advance(block)
    return report_of(done, names, place.masks)


def report_of(done: Sequence[FinishedBlock], names: Sequence[str], masks: Masks) -> PruneReport:
    """Return the report of all blocks; `names` gives the order of the matrices."""
    grids: dict[str, Grid] = {}
    errors: dict[str, float | None] = {}
    expert_tokens: dict[str, int] = {}
    for block in done:
        grids |= block.grids
        errors |= block.errors
        expert_tokens |= block.expert_tokens
    fracs = [block.dampening_frac for block in done if block.dampening_frac is not None]
    lost = {name for block in done for name in block.fell_back}
    return PruneReport(
        masks=masks,
        dampening_frac=max(fracs, default=None),
        grids=grids,
        errors={name: errors[name] for name in names},
        fell_back=[name for name in names if name in lost],
        expert_tokens=expert_tokens,
    )


def finish_block_(
    block: Block, problem: Problem, activations: Activations | None, ranks: Ranks
) -> FinishedBlock:
    """Observe the inputs of one block and prune it in place (collective)."""
    masks = problem.masks
    kind = problem.pruner.statistic
    pruned: dict[str, Pruned] = {}
    errors: dict[str, float | None] = {}
    fracs: list[float | None] = []
    expert_tokens: dict[str, int] = {}
    with gathered(block.module):
        if problem.pruner.config.keep_zeros and not masks:
            masks = {name: matrix.read() != 0 for name, matrix in block.matrices.items()}
        for part in parts_of_block(block, kind):
            groups = gather_statistics(kind, part, activations, ranks)
            if activations is not None:
                expert_tokens |= routed_tokens(groups, activations.experts, ranks)
            solved = solve_block(replace(problem, masks=masks), groups, ranks)
            pruned |= solved.pruned
            errors |= solved.errors
            fracs.append(solved.dampening_frac)
    kept = {name: result.mask for name, result in pruned.items()}
    assert_growing({name: masks[name] for name in kept if name in masks}, kept)
    for name, result in pruned.items():
        block.matrices[name].write_(result.weight)
    return FinishedBlock(
        index=block.index,
        weights={name: matrix.reader() for name, matrix in block.matrices.items()},
        masks=PackedMasks(kept),
        grids={name: one.grid for name, one in pruned.items() if one.grid is not None},
        errors=errors,
        fell_back=sorted(name for name, one in pruned.items() if one.fell_back),
        dampening_frac=max((frac for frac in fracs if frac is not None), default=None),
        expert_tokens=expert_tokens,
    )
