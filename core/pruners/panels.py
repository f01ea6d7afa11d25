"""SparseGPT's solve of a few neighbouring columns, whose mask is known; D of all rows at once.

D is original minus new weights. A surviving column j has `d_j = p_j + sum_i R[j, i] d_i` over the
columns i before it in the panel: p is what the columns before the panel do to it, and
`R[j, i] = -L[i, j] / L[j, j]`. A pruned column has `d_j = w_j`. Column by column this takes two
operations each. Each row by itself is one triangular system, and an accelerator solves all of them
in one operation. All tensors are transposed, [cols, rows].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.pruners.masks import require_divisible
from core.targets import MaskStructure

WIDTH_CPU, WIDTH_ACCELERATOR = 16, 32
"""Columns solved before a matrix product applies their changes to later ones; N:M uses M."""
SHORT = 4
"""Columns of a panel that an accelerator too solves one by one."""
CHUNK = 2**26
"""Entries of the systems that are solved together; bounds memory to 256 MB."""


def blocks(
    cols: int, structure: MaskStructure | None, block_size: int, panel: int
) -> tuple[list[int], int]:
    """Return the ends of mask blocks and the width of a panel; both hold whole N:M groups."""
    if structure is not None:
        require_divisible(cols, structure)
        panel = structure.group
        block_size = max(panel, block_size // panel * panel)
    return [min(start + block_size, cols) for start in range(0, cols, block_size)], panel


def rates(corner: Tensor) -> Tensor:
    """Return R of a corner [cols, cols] of the transpose of L."""
    found = corner / -corner.diagonal()[:, None]
    found.diagonal().zero_()
    return found


def solve_by_column_(
    delta: Tensor,
    mask: Tensor,
    inner: Tensor,
    rates: Tensor,
    rounded: Callable[[int, Tensor], Tensor] | None = None,
) -> None:
    """Solve columns one after the other.

    Args:
        delta: D [cols, rows]; holds the original weights before.
        mask: the survivors.
        inner: p; it is overwritten.
        rates: R [cols, cols].
        rounded: turns a column's number and D into the D of its rounded weights.
    """
    # Rates of later columns are zero, so every product may read the whole panel. Half of that work
    # could be left out, but it costs less than making new views for every column.
    transposed = delta.T
    columns = zip(inner.unbind(), rates.unbind(), mask.unbind(), delta.unbind(), strict=True)
    for j, (step, rate, kept, column) in enumerate(columns):
        if j:
            step.addmv_(transposed, rate)
        if rounded is not None:
            step = rounded(j, step)
        torch.where(kept, step, column, out=column)


def solve_by_row_(delta: Tensor, mask: Tensor, inner: Tensor, rates: Tensor) -> None:
    """Solve all columns at once: `(I - diag(mask) R) d = b`, b = p of survivors, w of others."""
    against = -rates
    parts = (tensor.split(max(1, CHUNK // rates.numel()), dim=1) for tensor in (delta, mask, inner))
    for columns, kept, steps in zip(*parts):
        systems = kept.T[:, :, None] * against
        wanted = torch.where(kept, steps, columns).T[:, :, None]
        solved = torch.linalg.solve_triangular(systems, wanted, upper=False, unitriangular=True)
        torch.where(kept, solved[..., 0].T, columns, out=columns)


class Groups:
    """N:M groups of one block: their scores and p, both linear in D of the block."""

    def __init__(
        self, corner: Tensor, original: Tensor, pull: Tensor, scorers: Sequence[Tensor]
    ) -> None:
        """Prepare a block of columns.

        Args:
            corner: of the transpose of L, [cols, cols].
            original: weights [cols, rows].
            pull: the effect of the columns before the block on it, [cols, rows].
            scorers: `diag(L) inv(L)T` of each group, [M, M].
        """
        group, diagonal = len(scorers[0]), corner.diagonal()
        shape = (len(scorers), group, -1)
        inverse = torch.diag_embed(-1 / diagonal.view(len(scorers), group))
        # Both the roots of the scores and p are products with what earlier columns do to a group.
        both = torch.cat((torch.stack(list(scorers)), inverse), dim=1)
        self.fixed = both @ pull.view(shape)
        self.fixed[:, :group].addcmul_(original.view(shape), diagonal.view(shape))
        self.slopes = both @ corner.view(shape)
        self.group = group

    def scores_and_inner(self, index: int, before: Tensor) -> tuple[Tensor, Tensor]:
        """Return the roots of a group's scores and its p, given D of the block's columns before."""
        found = torch.addmm(self.fixed[index], self.slopes[index, :, : len(before)], before)
        return found[: self.group], found[self.group :]
