"""SparseGPT: prune and compensate, column by column, from one triangular factor.

Frantar & Alistarh, arXiv 2301.00774. With `H = L LT`, L upper triangular, and D = original minus
new weights, the compensated value of column j is `w_j + (D[:, :j] @ L[:j, j]) / L[j, j]` and
pruning it costs `(w_j L[j, j])^2`. The reference works with the Cholesky factor U of the inverse
Hessian instead: `U[j, j] = 1 / L[j, j]`, and its running updates of all later columns sum to the
product above. Differences from the reference: no inverse (one Cholesky instead of three passes),
exact counts (it prunes one weight too many per block), dead inputs are pruned within the quota.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from core.config import MaskStructure, Target
from core.pruners.base import Pruned, Pruner, PruningError, Solution, Statistic, require_finite
from core.pruners.hessian import DAMPENING_STEP, Factor, Hessian, factorise
from core.pruners.masks import (
    assert_room,
    block_quotas,
    group_mask,
    keep_earlier,
    lowest,
    require_divisible,
)

# Columns solved one by one before a matrix product carries their changes on; N:M takes its M.
PANEL = 16

# Given scores [cols, rows] of the columns from `start` on, says which survive.
ChooseMask = Callable[[Tensor, int], Tensor]


@final
@dataclass(frozen=True)
class SparseGPT(Pruner):
    """The masks of `block_size` columns (N:M: of M) are chosen on compensated weights."""

    name: ClassVar[str] = "sparsegpt"
    version: ClassVar[int] = 1
    fields_read: ClassVar[tuple[str, ...]] = ("dampening_frac", "block_size")
    statistic: ClassVar[type[Statistic] | None] = Hessian

    def prune(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        target: Target,
        masks: Sequence[Tensor] | None = None,
    ) -> Solution:
        """Solves all matrices of one input in one pass, their rows stacked."""
        assert isinstance(statistic, Hessian)
        require_finite(weights)
        statistic.require_finite()
        factor = factorise(statistic.matrix(), self.config.dampening_frac)
        matrices = solve(weights, factor, target, self.config.block_size, masks)
        if not all(torch.isfinite(matrix.weight).all() for matrix in matrices):
            raise PruningError(
                f"compensated weights overflow with damping {factor.dampening_frac:g}; "
                f"try --prune.dampening-frac {factor.dampening_frac * DAMPENING_STEP:g}"
            )
        return Solution(matrices, factor.dampening_frac)


def solve(
    weights: Sequence[Tensor],
    factor: Factor,
    target: Target,
    block_size: int,
    masks: Sequence[Tensor] | None = None,
) -> list[Pruned]:
    """Prunes matrices [rows_i, cols] that share `factor`; each has its own mask thresholds."""
    # Columns become rows: each step then reads and writes contiguous memory.
    original = torch.cat([w.to(factor.upper.dtype) for w in weights]).T.contiguous()
    earlier = None
    if masks is not None:
        earlier = torch.cat(list(masks)).T.contiguous()
        original *= earlier
    ends, panel = blocks(len(original), target, block_size)
    rows = [len(weight) for weight in weights]
    if target.mask_structure is None:
        choose = unstructured_choice(rows, ends, target.sparsity, masks)
    else:
        structure = MaskStructure.parse(target.mask_structure)
        for mask in masks or ():
            assert_room(mask, structure)
        choose = structured_choice(structure)
    by_panel = target.mask_structure is not None
    new, mask = sweep_columns(original, factor, ends, panel, by_panel, choose, earlier)
    return [
        Pruned(part.to(weight.dtype), kept)
        for part, kept, weight in zip(
            new.T.contiguous().split(rows), mask.T.contiguous().split(rows), weights
        )
    ]


def blocks(cols: int, target: Target, block_size: int) -> tuple[list[int], int]:
    """Where mask blocks end, and the columns of one panel; N:M groups never straddle either."""
    panel = PANEL
    if target.mask_structure is not None:
        structure = MaskStructure.parse(target.mask_structure)
        require_divisible(cols, structure)
        panel = structure.group
        block_size = max(panel, block_size // panel * panel)
    return [min(start + block_size, cols) for start in range(0, cols, block_size)], panel


def unstructured_choice(
    rows: list[int], ends: list[int], sparsity: float, masks: Sequence[Tensor] | None
) -> ChooseMask:
    """Chooses a whole block: the lowest scores of each matrix, as many as its quota."""
    quotas = [
        dict(
            zip([0, *ends], block_quotas(r, ends[-1], ends, sparsity, masks[i] if masks else None))
        )
        for i, r in enumerate(rows)
    ]

    def choose(scores: Tensor, start: int) -> Tensor:
        kept = [
            ~lowest(part.reshape(-1), quota[start]).view(part.shape)
            for part, quota in zip(scores.split(rows, dim=1), quotas)
        ]
        return torch.cat(kept, dim=1)

    return choose


def structured_choice(structure: MaskStructure) -> ChooseMask:
    """Chooses one group of M columns: the N highest scores of each row survive."""

    def choose(scores: Tensor, start: int) -> Tensor:
        return group_mask(scores.T, structure).T

    return choose


def sweep_columns(
    original: Tensor,
    factor: Factor,
    ends: list[int],
    panel: int,
    by_panel: bool,
    choose: ChooseMask,
    earlier: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Goes once over all columns; returns new weights and masks, both [cols, rows].

    Args:
        original: weights, transposed [cols, rows].
        factor: factor of their input's Hessian.
        ends: where each mask block ends.
        panel: columns solved one by one between matrix products.
        by_panel: choose masks panel by panel (N:M) instead of block by block.
        choose: the mask of such columns.
        earlier: masks of the branch so far, transposed, or None.
    """
    lower = factor.upper.T.contiguous()
    mask = torch.empty_like(original, dtype=torch.bool)
    delta = torch.empty_like(original)
    start = 0
    for end in ends:
        pull = lower[start:end, :start] @ delta[:start]
        if not by_panel:
            mask[start:end] = pick(original, pull, lower, factor.dead, earlier, choose, start)
        for first in range(start, end, panel):
            last = min(first + panel, end)
            inner = pull[first - start : last - start]
            if first > start:
                inner.addmm_(lower[first:last, start:first], delta[start:first])
            if by_panel:
                mask[first:last] = pick(original, inner, lower, factor.dead, earlier, choose, first)
            for j in range(first, last):
                step = inner[j - first]
                if j > first:
                    step = torch.addmv(step, delta[first:j].T, lower[j, first:j])
                torch.where(mask[j], step * (-1.0 / lower[j, j]), original[j], out=delta[j])
        start = end
    return (original - delta).masked_fill_(~mask, 0), mask


def pick(
    original: Tensor,
    pull: Tensor,
    lower: Tensor,
    dead: Tensor,
    earlier: Tensor | None,
    choose: ChooseMask,
    start: int,
) -> Tensor:
    """The mask of columns `start ...`, scored as if every column before them were final.

    `pull` is `L[:start, columns]T @ D[:start]`; a small triangular solve turns it into the change
    of the weights that leaves all columns of the block free.
    """
    span = slice(start, start + len(pull))
    corner = lower[span, span]
    current = original[span] + torch.linalg.solve_triangular(corner, pull, upper=False)
    scores = (current * corner.diagonal()[:, None]).square_()
    scores.masked_fill_(dead[span, None], -1.0)
    return choose(keep_earlier(scores, None if earlier is None else earlier[span]), start)
