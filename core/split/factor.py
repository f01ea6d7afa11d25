"""The triangular factor of a Hessian: on one rank, or its columns dealt out to several.

Columns go in blocks to the ranks in turn, so that all have work until the end. Block rows are
computed from the last to the first. For each, the rank that has its diagonal block sends what the
finished rows hold below that block, and then the block's own factor. Every rank computes the block
row in its own columns. What is sent adds up to the whole factor, so all ranks end with it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.ranks import ALONE, Ranks

FACTOR_BLOCK = 128
"""Columns factored at once between two products."""


def reversed_cholesky(
    hessian: Tensor, diagonal: Tensor, ranks: Ranks = ALONE
) -> tuple[Tensor, Tensor]:
    """Return the transpose of L, upper triangular with `L LT = hessian` (collective).

    L is the Cholesky factor of the matrix with both axes flipped, flipped back. To flip no more
    than a block, this goes over block rows from the last to the first. Each takes one product with
    the finished rows, so it runs at the speed of products, which a library's factor does not.

    Args:
        hessian: symmetric [cols, cols]; read below its diagonal and in its diagonal blocks.
        diagonal: replaces the diagonal, [cols].
        ranks: the ranks that share the work and hold the same arguments.

    Returns:
        The factor, and a scalar tensor that is True if the matrix is positive definite; on all
        ranks alike.
    """
    size = len(hessian)
    lower = torch.zeros_like(hessian)
    columns = own_columns(size, ranks, hessian.device)
    # Finished rows in this rank's columns, side by side.
    part = lower if ranks.size == 1 else hessian.new_zeros(size, len(columns))
    failed = torch.zeros((), dtype=torch.int32, device=hessian.device)
    for start in reversed(range(0, size, FACTOR_BLOCK)):
        end = min(start + FACTOR_BLOCK, size)
        owner = start // FACTOR_BLOCK % ranks.size
        left = columns_before(start, ranks)
        right = left + (end - start if owner == ranks.rank else 0)
        below = from_owner(part[end:, left:right], lower[end:, start:end], owner, ranks)
        row = part[start:end, :right]
        row.copy_(
            hessian[start:end, :end] if ranks.size == 1 else hessian[start:end, columns[:right]]
        )
        corner = row[:, left:]
        if owner == ranks.rank:
            corner.diagonal().copy_(diagonal[start:end])
        row.addmm_(below.T, part[end:, :right], alpha=-1)
        if owner == ranks.rank:
            root, info = torch.linalg.cholesky_ex(corner.flip(0, 1))
            failed |= info
            corner.copy_(root.flip(0, 1).T)
        corner = from_owner(corner, lower[start:end, start:end], owner, ranks)
        if left:
            row[:, :left] = inverse_triangle(corner).T @ row[:, :left]
    return lower, (ranks.sum_(failed) == 0) & torch.isfinite(lower.diagonal()).all()


def own_columns(size: int, ranks: Ranks, device: torch.device) -> Tensor:
    """Return the columns of this rank: every `ranks.size`-th block."""
    columns = torch.arange(size, device=device)
    return columns[columns // FACTOR_BLOCK % ranks.size == ranks.rank]


def columns_before(start: int, ranks: Ranks) -> int:
    """Return how many columns of this rank stand before `start`, where a block begins."""
    return -((ranks.rank - start // FACTOR_BLOCK) // ranks.size) * FACTOR_BLOCK


def from_owner(piece: Tensor, place: Tensor, owner: int, ranks: Ranks) -> Tensor:
    """Copy the owner's piece to its place in the whole factor on all ranks, and return it.

    Args:
        piece: the piece at its owner.
        place: where it belongs; with one rank it is there already.
        owner: the rank that has it.
        ranks: all of them.
    """
    if ranks.size == 1 or place.numel() == 0:
        return place
    sent = piece.contiguous() if owner == ranks.rank else torch.empty_like(place).contiguous()
    ranks.broadcast_(sent, owner)
    place.copy_(sent)
    return sent


def inverse_triangle(lower: Tensor) -> Tensor:
    """Return the inverses of lower triangles [..., n, n], as exact as their dtype allows.

    Products with an inverse are faster than triangular solves with many right-hand sides.
    """
    eye = torch.eye(lower.shape[-1], dtype=torch.float64, device=lower.device)
    return torch.linalg.solve_triangular(lower.double(), eye, upper=False).to(lower.dtype)
