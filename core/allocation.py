"""Allocation of the model's sparsity to matrices: blocks with many outliers lose less (OWL).

Yin et al., arXiv 2310.05175: a block's outlier ratio is the share of its Wanda scores above 5 times
their mean. The more outliers, the denser the block, over a span of 2 x 0.08 between the extremes.
Place in the flow: the ratios are measured once, on the dense model, before anything is pruned. Then
`allocate` turns the sparsity of any round into a target for each matrix.

Differences from the reference: counts are exact over the whole model. If its rule gives a sparsity
outside 0 to 1, other blocks make up for it. So every sparsity from 0 to 1 is possible, and the
count of every matrix only grows with it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.activations import Activations, Calibration, gather_statistics
from core.checks import require
from core.models.blocks import prunable_blocks
from core.models.matrices import Matrix
from core.models.residence import residence_of
from core.pruners.hessian import InputNorms
from core.pruners.masks import num_pruned
from core.ranks import Ranks
from core.targets import Target

OUTLIER_FACTOR = 5.0
"""A score above this many times the mean is an outlier (M in the paper)."""
HALF_SPAN = 0.08
"""Half of the span of densities (lambda in the paper)."""


@torch.no_grad()
def outlier_ratios(model: PreTrainedModel, calibration: Calibration, ranks: Ranks) -> list[float]:
    """Return the share of outlying Wanda scores in each block of a dense model (collective).

    Args:
        model: the dense model, sharded where there are several ranks; not changed.
        calibration: the windows on which inputs are observed, and how they run.
        ranks: this process among the others.
    """
    batches, dtype = calibration.batches(ranks), calibration.compute_dtype
    ratios, activations = [], Activations(model, batches, ranks, dtype, calibration.experts)
    for block in prunable_blocks(model):
        with residence_of(model).opened(block.module):
            scores = []
            for group in gather_statistics(InputNorms, block, activations, ranks, advance=True):
                assert isinstance(group.statistic, InputNorms)
                for tensor in group.statistic.tensors():
                    ranks.sum_(tensor)
                group.statistic.require_finite()
                rms = group.statistic.rms()
                scores += [one.read().abs().float() * rms for one in group.matrices]
            ratios.append(outlier_ratio(scores))
    # Every rank must prune by the same counts.
    return ranks.gather(ratios)[0]


def outlier_ratio(scores: Sequence[Tensor]) -> float:
    """Return the share of a block's scores above `OUTLIER_FACTOR` times their mean."""
    numel = sum(score.numel() for score in scores)
    mean = sum(score.sum(dtype=torch.float64).item() for score in scores) / numel
    return sum(int((score > OUTLIER_FACTOR * mean).sum()) for score in scores) / numel


def allocate(
    matrices: Mapping[str, Matrix], ratios: Sequence[float], target: Target
) -> dict[str, Target]:
    """Return targets of all matrices whose counts add up to `round(sparsity * total)`.

    The sparsity of block b is `clip(level - bonus_b, 0, 1)`. The bonus rises from 0 to 0.16 with
    the block's outlier ratio. The level is one number for the whole model, chosen so that the total
    is right. Exactly: the k-th weight of a matrix of n weights has the level
    `bonus + (k - 1/2) / n`, and the `round(sparsity * total)` weights with the lowest levels are
    pruned. So a higher sparsity never lowers a count.

    Raises:
        ValueError: for an N:M structure, in which no matrix can keep more than another.
    """
    remedy = f"cannot be had with --mask-structures {target.mask_structure}; use uniform"
    require(target.mask_structure is None, "prune.allocation", "owl", remedy)
    bonus, found = bonuses(ratios), [*matrices.values()]
    wanted = num_pruned(target.sparsity, sum(one.numel for one in found))
    low, high = 0.0, 1.0 + 2 * HALF_SPAN
    for _ in range(60):
        level = (low + high) / 2
        fits = sum(below(one, bonus, level) for one in found) <= wanted
        low, high = (level, high) if fits else (low, level)
    # Bisection cannot split ties, so the last few weights go one by one in exact order.
    counts = [max(0, below(one, bonus, low) - 2) for one in found]
    following = [
        (bonus[one.block] + (count + 0.5) / one.numel, i)
        for i, (one, count) in enumerate(zip(found, counts))
        if count < one.numel
    ]
    heapq.heapify(following)
    for _ in range(wanted - sum(counts)):
        _, i = heapq.heappop(following)
        counts[i] += 1
        if counts[i] < found[i].numel:
            at = bonus[found[i].block] + (counts[i] + 0.5) / found[i].numel
            heapq.heappush(following, (at, i))
    assert sum(counts) == wanted
    return {one.name: Target(count / one.numel) for one, count in zip(found, counts)}


def bonuses(ratios: Sequence[float]) -> list[float]:
    """Return the extra density of each block over the one with fewest outliers, 0 to 0.16."""
    least, most = min(ratios), max(ratios)
    if least == most:
        return [0.0] * len(ratios)
    return [(ratio - least) / (most - least) * 2 * HALF_SPAN for ratio in ratios]


def below(matrix: Matrix, bonus: Sequence[float], level: float) -> int:
    """Return how many weights of a matrix a level prunes."""
    count = round(matrix.numel * (level - bonus[matrix.block]))
    return min(max(count, 0), matrix.numel)
