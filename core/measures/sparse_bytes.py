"""Bytes of a pruned model in a sparse form, exact, from counts.

Each prunable matrix is stored as the values that survive and a bitmask of one bit a weight. A 2:4
matrix is stored as the two survivors of every four weights and the place of each in two bits, which
is one bit a weight as well. So both forms take the same bytes at the same sparsity. A matrix with
no pruned weight, and all that is not prunable, is stored dense.
"""

from __future__ import annotations

from collections.abc import Mapping


def mask_bytes(num_pruned: Mapping[str, int], num_weights: Mapping[str, int]) -> int:
    """Return the bytes of all bitmasks, or of all places of 2:4 survivors; whole for each matrix.

    Two bits for each of n / 2 survivors are n bits too. Both arguments are by matrix.
    """
    masked = (name for name, pruned in num_pruned.items() if pruned)
    return sum(-(-num_weights[name] // 8) for name in masked)


def sparse_bytes(num_parameters: int, num_pruned: int, masks: int, itemsize: int) -> int:
    """Return the bytes of a model in a sparse form.

    Args:
        num_parameters: of the whole model; tied weights count once.
        num_pruned: pruned weights.
        masks: from `mask_bytes`.
        itemsize: bytes of a value.
    """
    return (num_parameters - num_pruned) * itemsize + masks
