"""SparseGPT as a plain loop over columns: a reference for time and error, written from the paper.

Frantar & Alistarh, arXiv 2301.00774, algorithm 1: the Cholesky factor U of the inverse Hessian
says how each column's error moves into the columns after it. Masks are chosen a block ahead, by
the smallest `(w / U[j, j])^2`. Within a block every column updates the rest of the block at once;
the columns behind the block follow in one product. This is the loop that the original class runs,
and benches compare with it where no checkout of that class is at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.targets import Target


def inverse_factor(hessian: Tensor, dampening_frac: float) -> Tensor:
    """Return U, upper triangular, with `inv(H + damping) = UT U`; [cols, cols]."""
    damped = hessian.clone()
    damped.diagonal().add_(dampening_frac * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def prune(
    weight: Tensor,
    hessian: Tensor,
    target: Target,
    dampening_frac: float = 0.01,
    block_size: int = 128,
) -> Tensor:
    """Return a pruned copy of one matrix [rows, cols]; every input must have been seen."""
    upper = inverse_factor(hessian, dampening_frac)
    found = weight.float().clone()
    cols = found.shape[1]
    for start in range(0, cols, block_size):
        end = min(start + block_size, cols)
        errors = solve_block(found[:, start:end], upper[start:end, start:end], target)
        found[:, end:] -= errors @ upper[start:end, end:]
    return found.to(weight.dtype)


def solve_block(block: Tensor, corner: Tensor, target: Target) -> Tensor:
    """Prune the columns of a block in place; return their scaled errors [rows, columns]."""
    diagonal, structure = corner.diagonal(), target.structure
    errors = torch.zeros_like(block)
    pruned = torch.zeros_like(block, dtype=torch.bool)
    if structure is None:
        pruned = smallest((block / diagonal).square(), target.sparsity)
    for j in range(block.shape[1]):
        if structure is not None and j % structure.group == 0:
            span = slice(j, j + structure.group)
            scores = (block[:, span] / diagonal[span]).square()
            count = structure.group - structure.survivors
            lowest = scores.topk(count, dim=1, largest=False).indices
            pruned[:, span] = torch.zeros_like(pruned[:, span]).scatter_(1, lowest, True)
        kept = block[:, j].masked_fill(pruned[:, j], 0.0)
        errors[:, j] = (block[:, j] - kept) / diagonal[j]
        block[:, j:] -= torch.outer(errors[:, j], corner[j, j:])
        block[:, j] = kept
    return errors


def smallest(scores: Tensor, sparsity: float) -> Tensor:
    """Mark the wanted share of the scores, the smallest ones; equal scores may make it one more."""
    count = round(sparsity * scores.numel())
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    return scores <= scores.flatten().sort().values[count - 1]
