"""The lowest scores of a matrix whose rows lie on several ranks: exact counts, ties by position.

The threshold is found in three rounds over the bits of a float32. In each round every rank counts
its scores by the next few bits, and the counts are summed over ranks. All ranks then go on with the
bits of the bin that holds the wanted score. So a round sends 8 KB, however large the matrix is, and
the host waits for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.accelerator import is_accelerator
from core.ranks import Ranks

# Bits that each round counts by and bits below them, from the highest of 32.
ROUNDS = ((11, 21), (11, 10), (10, 0))
MOST_COUNTED = 2**24
"""Numbers that one histogram counts on a GPU."""


def lowest_of_all(scores: Sequence[Tensor], counts: Sequence[int], ranks: Ranks) -> list[Tensor]:
    """Mark exactly `counts[i]` entries of the i-th whole matrix, lowest first (collective).

    Among equal scores the earlier position goes first. Positions go line by line, and within a line
    from the first rank to the last, as if the ranks' parts of the line stood side by side.

    Args:
        scores: this rank's parts, float32 [lines, part]; ranks may have parts of different widths.
        counts: how many entries to mark in each whole matrix, the same on all ranks.
        ranks: the ranks that hold parts.

    Returns:
        bool tensors in the shapes of `scores`.
    """
    keys = [ordered_bits(each) for each in scores]
    marks = []
    for key, threshold, missing in zip(keys, *thresholds(keys, counts, ranks)):
        ties = key == threshold
        place = ties.cumsum(1) + ties_before(ties.sum(1), ranks)[:, None]
        marks.append((key < threshold) | (ties & (place <= missing)))
    return marks


def ordered_bits(scores: Tensor) -> Tensor:
    """Return int32 numbers in the order of float32 scores; -0 equals 0, NaN comes last."""
    # Adding zero turns -0 into 0. The bits of negative floats grow as the floats fall.
    bits = (scores + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def thresholds(
    keys: Sequence[Tensor], counts: Sequence[int], ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """Return the `counts[i]`-th lowest key of each matrix, and how many of its equals to mark.

    With a count of zero the threshold is below all keys.
    """
    missing = torch.tensor(counts, device=keys[0].device)
    found = None
    for bits, below in ROUNDS:
        # Keys have a sign, so half of the highest digits are negative.
        start = torch.full_like(missing, -(1 << bits >> 1)) if found is None else found << bits
        digits = [(key >> below) - first for key, first in zip(keys, start)]
        histograms = torch.stack([histogram(each, bits) for each in digits])
        total = ranks.sum_(histograms).cumsum(1)
        digit = (total < missing[:, None]).sum(1)
        lower = total.gather(1, (digit - 1).clamp(min=0)[:, None])[:, 0]
        missing = missing - torch.where(digit > 0, lower, 0)
        found = start + digit
    assert found is not None
    return found, missing


def histogram(digits: Tensor, bits: int) -> Tensor:
    """Return how often each number below `2^bits` occurs; all others are left out."""
    size = 1 << bits
    if not is_accelerator(digits.device):
        return torch.bincount(digits[(digits >= 0) & (digits < size)], minlength=size)
    # `bincount` would make the host wait. Halves keep whole numbers away from the edges of bins.
    # CUDA counts in float32, which adds no 1 to more than `MOST_COUNTED`.
    total = torch.zeros(size, dtype=torch.long, device=digits.device)
    for part in digits.flatten().split(MOST_COUNTED):
        total += torch.histc(part.float() + 0.5, size, 0, size).long()
    return total


def ties_before(ties: Tensor, ranks: Ranks) -> Tensor:
    """Return how many ties of a matrix stand before this rank's part of each line, [lines].

    Args:
        ties: number of ties in each line of this rank's part, [lines].
        ranks: the ranks that hold parts.
    """
    by_rank = ties.new_zeros(len(ties), ranks.size)
    by_rank[:, ranks.rank] = ties
    flat = ranks.sum_(by_rank).flatten()
    return (flat.cumsum(0) - flat).view(by_rank.shape)[:, ranks.rank]
