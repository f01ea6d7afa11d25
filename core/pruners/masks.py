"""Choice of masks from scores: exact counts, ties broken by position, earlier masks kept.

A mask is True where the weight survives. All choices prune the lowest scores. A weight that an
earlier mask pruned scores minus infinity, so it is pruned first.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from core.accelerator import is_accelerator
from core.checks import require
from core.ranks import ALONE, Ranks
from core.split.selection import lowest_of_all
from core.targets import MaskStructure, Target

# Scores in a row from which on all of an accelerator's processors select together.
LONG_ROW = 2**14
# The widest N:M group whose scores are ranked pair by pair.
SMALL_GROUP = 8
# Such groups that are ranked at once: so few that their pairs stay in a CPU's cache, or so many
# that an accelerator has work.
GROUPS_CPU, GROUPS_ACCELERATOR = 2**12, 2**22


def num_pruned(sparsity: float, numel: int) -> int:
    """Return how many of `numel` weights to prune, the nearest whole number."""
    return round(sparsity * numel)


def lowest(scores: Tensor, count: int) -> Tensor:
    """Mark exactly `count` entries in each row of `scores` (last dimension), lowest first.

    Among equal scores the earlier position goes first. So the count is exact even if many scores
    are equal, as in bfloat16.
    """
    size = scores.shape[-1]
    assert 0 <= count <= size
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if count == size:
        return torch.ones_like(scores, dtype=torch.bool)
    threshold = kth_smallest(scores, count)
    if not is_accelerator(scores.device):
        chosen = scores <= threshold
        if int(chosen.count_nonzero()) == count * (scores.numel() // size):
            return chosen
    chosen = scores < threshold
    missing = count - chosen.sum(-1, keepdim=True)
    ties = scores == threshold
    return chosen | (ties & (ties.cumsum(-1, dtype=torch.int32) <= missing))


def group_survivors(scores: Tensor, pruned: int) -> Tensor:
    """Mark all entries but the `pruned` lowest in each column of `scores` [M, groups].

    Among equal scores the earlier goes first. In groups of a few, all pairs are compared at once,
    and one product turns them into the place of each score: how many are lower, or equal and
    earlier.
    """
    few = len(scores)
    if few > SMALL_GROUP:
        return ~lowest(scores.T, pruned).T
    weights, first = pair_weights(few, scores.device)
    size = GROUPS_ACCELERATOR if is_accelerator(scores.device) else GROUPS_CPU
    kept = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    for part, into in zip(scores.split(size, dim=1), kept.split(size, dim=1)):
        pairs = weights.new_empty(few, few, part.shape[1])
        torch.ge(part[:, None], part, out=pairs)
        torch.ge(torch.addmm(first, weights, pairs.flatten(0, 1)), pruned, out=into)
    return kept


@functools.cache
def pair_weights(few: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what turns comparisons "score i >= score j" [i, j] into places, `first + weights @`.

    Score i is behind each earlier j with `i >= j`, and behind each later j without `j >= i`.
    """
    weights = torch.zeros(few, few, few)
    for i in range(few):
        weights[i, i, :i] = 1
        weights[i, i + 1 :, i] = -1
    first = torch.arange(few - 1, -1, -1.0)[:, None]
    return weights.flatten(1).to(device), first.to(device)


def lowest_of_matrices(
    scores: Sequence[Tensor], counts: Sequence[int], ranks: Ranks
) -> list[Tensor]:
    """Mark exactly `counts[i]` entries of the i-th matrix, lowest first, as `lowest` does.

    Args:
        scores: [lines, part] of each matrix: this rank's part of each line.
        counts: entries of whole matrices, the same on all ranks.
        ranks: the ranks that hold parts of the same matrices; collective over them.
    """
    if ranks.size > 1:
        return lowest_of_all(scores, counts, ranks)
    return [lowest(part.reshape(-1), count).view(part.shape) for part, count in zip(scores, counts)]


def kth_smallest(scores: Tensor, k: int) -> Tensor:
    """Return the k-th smallest entry of each row (last dimension, kept), counted from 1.

    On a CPU numpy selects, several times as fast as torch. On an accelerator torch's selection
    keeps one of many processors busy with a long row, and takes all of them only to find the k
    lowest, or highest, of which the entry is the last.

    Scores are floating-point numbers, none of them NaN.
    """
    size = scores.shape[-1]
    if not is_accelerator(scores.device):
        # Often most scores are the lowest: zeros, or what an earlier mask pruned. numpy is slow
        # where most are the lowest, so it gets them negated.
        values = -scores.detach().to(torch.promote_types(scores.dtype, torch.float32))
        found = np.partition(values.numpy(), size - k, axis=-1)[..., size - k, None]
        return torch.from_numpy(-found).to(scores.dtype)
    if scores.dim() > 1 or size < LONG_ROW:
        return scores.kthvalue(k, dim=-1, keepdim=True).values
    low = 2 * k <= size
    few = scores.topk(k if low else size - k + 1, largest=not low, sorted=False).values
    return (few.max() if low else few.min())[None]


def keep_earlier(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return scores in which already pruned weights are minus infinity."""
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def at_least(target: Target, earlier: Tensor | None, ranks: Ranks = ALONE) -> Target:
    """Return the target of one matrix, raised to what an earlier mask already pruned of it."""
    if earlier is None or target.structure is not None:
        return target
    gone, numel = ranks.total(int((~earlier).sum())), ranks.total(earlier.numel())
    return target if gone <= num_pruned(target.sparsity, numel) else Target(gone / numel)


def unstructured_mask(
    scores: Tensor, sparsity: float, earlier: Tensor | None = None, ranks: Ranks = ALONE
) -> Tensor:
    """Return a matrix's mask, exactly `round(sparsity * numel)` pruned (more if earlier were).

    Several ranks hold the rows in their order, and the count is that of all rows.
    """
    count = num_pruned(sparsity, ranks.total(scores.numel()))
    if earlier is not None:
        count = max(count, ranks.total(int((~earlier).sum())))
    return lowest_pruned(keep_earlier(scores, earlier), count, ranks)


def lowest_pruned(scores: Tensor, count: int, ranks: Ranks = ALONE) -> Tensor:
    """Return the mask that prunes the `count` lowest scores of a matrix; ranks hold its rows."""
    return ~lowest_of_matrices([scores.reshape(1, -1)], [count], ranks)[0].view(scores.shape)


def row_mask(
    scores: Tensor,
    sparsity: float,
    earlier: Tensor | None = None,
    whole: bool = False,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Return a mask with exactly `round(sparsity * cols)` pruned in each row, as Wanda does.

    A row in which earlier masks pruned more keeps these. With `whole`, exactly
    `round(sparsity * numel)` weights of the matrix are pruned. If that is no
    multiple of the rows, some rows prune one more: those whose next weight has the lowest score.
    """
    rows, cols = scores.shape
    scores = keep_earlier(scores, earlier)
    count, more = num_pruned(sparsity, cols), 0
    if whole:
        every = ranks.total(rows)
        count, more = divmod(num_pruned(sparsity, every * cols), every)
    pruned = lowest(scores, count)
    if more:
        following = scores.masked_fill(pruned, torch.inf).min(1)
        chosen = lowest_of_matrices([following.values[None]], [more], ranks)[0][0]
        pruned[chosen, following.indices[chosen]] = True
    # A model that came sparse may have more zeros in a row.
    return ~pruned if earlier is None else ~pruned & earlier


def group_mask(
    scores: Tensor,
    structure: MaskStructure,
    earlier: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Return an N:M mask: of every M consecutive columns the N highest scores survive."""
    rows, cols = scores.shape
    assert cols % structure.group == 0
    count = structure.group - structure.survivors
    if earlier is not None:
        require_room(earlier, structure, ranks)
    groups = keep_earlier(scores, earlier).reshape(-1, structure.group)
    if structure.group > SMALL_GROUP:
        return ~lowest(groups, count).view(rows, cols)
    return group_survivors(groups.T.contiguous(), count).T.reshape(rows, cols)


def require_room(earlier: Tensor, structure: MaskStructure, ranks: Ranks = ALONE) -> None:
    """Refuse N:M where earlier masks pruned more of a group, on all ranks alike (collective)."""
    require_divisible(earlier.shape[1], structure)
    pruned = (~earlier).reshape(-1, structure.group).sum(-1)
    room = structure.group - structure.survivors
    full = ranks.total(int((pruned > room).sum()))
    remedy = (
        f"earlier masks pruned more than {room} of {structure.group} weights in {full} groups; "
        "use a structure with fewer survivors, or begin with a model without these masks"
    )
    require(full == 0, "mask-structures", str(structure), remedy)


def choose(
    scores: Tensor,
    target: Target,
    earlier: Tensor | None = None,
    by_row: bool = False,
    whole: bool = False,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Return the mask of a matrix for a target; `by_row` compares scores within each row only.

    Several ranks hold some rows of the matrix each, in their order.
    """
    if target.structure is not None:
        require_divisible(scores.shape[1], target.structure)
        return group_mask(scores, target.structure, earlier, ranks)
    if by_row:
        return row_mask(scores, target.sparsity, earlier, whole, ranks)
    return unstructured_mask(scores, target.sparsity, earlier, ranks)


def require_divisible(cols: int, structure: MaskStructure) -> None:
    """Refuse N:M on a width that M does not divide."""
    remedy = (
        f"a matrix has {cols} inputs, which {structure.group} does not divide; choose another M"
    )
    require(cols % structure.group == 0, "mask-structures", str(structure), remedy)


def block_quotas(
    rows: int,
    cols: int,
    ends: Sequence[int],
    sparsity: float,
    earlier: Tensor | None,
    ranks: Ranks = ALONE,
) -> list[int]:
    """Return how many weights each block of columns prunes; the blocks end at `ends`.

    After the block that ends at column e, `round(sparsity * rows * e)` weights are pruned. There
    are two exceptions. A block prunes more if earlier masks already pruned more in it. It prunes
    less if earlier masks pruned so many weights to its right that the total would be too high. In
    the whole matrix `round(sparsity * rows * cols)` are pruned, or more if earlier masks have more.
    If several ranks hold rows, all counts are those of the whole matrix.
    """
    if earlier is None:
        by_column = torch.zeros(cols, dtype=torch.long)
    else:
        by_column = ranks.sum_((~earlier).sum(0)).cpu()
    return quotas_of(ranks.total(rows), by_column, ends, sparsity)


def quotas_of(rows: int, by_column: Tensor, ends: Sequence[int], sparsity: float) -> list[int]:
    """Return the same from the number of weights that earlier masks pruned in each column."""
    cols = len(by_column)
    total = max(num_pruned(sparsity, rows * cols), int(by_column.sum()))
    quotas, done, start = [], 0, 0
    for end in ends:
        here, later = int(by_column[start:end].sum()), int(by_column[end:].sum())
        wanted = num_pruned(sparsity, rows * end) - done
        quota = max(here, min(wanted, total - done - later))
        assert 0 <= quota <= rows * (end - start)
        quotas.append(quota)
        done, start = done + quota, end
    assert done == total
    return quotas
