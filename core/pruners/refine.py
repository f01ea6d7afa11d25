"""Refines any method's mask: swaps a survivor for a pruned weight while that lowers the error.

The swaps are SparseSwaps (arXiv 2512.10922), see `swaps.py`. They keep the counts of every row, and
of every group of N:M. A weight that an earlier mask of the branch pruned is never revived.

If survivors keep their values (magnitude, Wanda), a revived weight gets its original value, as in
the paper. If the method moves survivors (SparseGPT, ALPS), a revived weight gets the value that
lowers the error most. Then also, before and after the swaps, all survivors of a row take a few
steps of conjugate gradients from the method's values towards least squares on their support. At the
end the error is computed anew on values of the weight's own dtype, and a row whose error did not
fall stays as the method left it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from core.methods import OPTION_VERSIONS, Method
from core.parallel import Ranks
from core.pruners.hessian import Hessian, InputNorms
from core.pruners.pruner import Pruned, Pruner, Solution, Statistic
from core.pruners.swaps import Layer, swap
from core.split.costs import Work
from core.targets import Target

CG_STEPS = 10


@final
@dataclass(frozen=True)
class Refined(Pruner):
    """The pruner of another method, with swaps after it."""

    method: Pruner

    facts: ClassVar[Method] = Method(
        "refined", OPTION_VERSIONS["refine"], "swaps after another method", statistic="Hessian"
    )
    statistic: ClassVar[type[Statistic] | None] = Hessian

    def prune_checked(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        target: Target,
        masks: Sequence[Tensor] | None,
        ranks: Ranks,
    ) -> Solution:
        """Prune with the method, then refine all matrices of the input together."""
        assert isinstance(statistic, Hessian)
        hessian = statistic.matrix()
        own: Statistic | None = statistic
        if self.method.statistic is InputNorms:
            own = norms(hessian, statistic.num_tokens)
        solution = self.method.prune(weights, own, target, masks, ranks)
        matrices = refine(
            hessian, weights, solution.matrices, target, masks, self.method.facts.keeps_values
        )
        return replace(solution, matrices=matrices)

    def work(self, rows: Sequence[int], cols: int) -> Work:
        """Return the method's, plus conjugate gradients before and after; swaps are no products."""
        products = 0 if self.method.facts.keeps_values else 2 * (CG_STEPS + 1)
        before = self.method.work(rows, cols)
        return replace(before, by_row=before.by_row + products * 2.0 * sum(rows) * cols**2)


def norms(hessian: Tensor, num_tokens: Tensor) -> InputNorms:
    """Return the norms of the inputs, which the diagonal of their Hessian holds."""
    statistic = InputNorms(len(hessian), hessian.device)
    statistic.squares = hessian.diagonal() * (num_tokens.item() / 2)
    statistic.num_tokens = num_tokens
    return statistic


def refine(
    hessian: Tensor,
    weights: Sequence[Tensor],
    pruned: Sequence[Pruned],
    target: Target,
    masks: Sequence[Tensor] | None,
    keeps_values: bool,
) -> list[Pruned]:
    """Lower the reconstruction error of pruned matrices that share an input, row by row.

    Args:
        hessian: H of the input, [cols, cols].
        weights: matrices [rows_i, cols] before pruning.
        pruned: the same matrices after it; their counts in each row and group stay.
        target: their target; only its structure is read.
        masks: earlier masks of the branch, or None.
        keeps_values: survivors keep their original value.
    """
    group = None if target.structure is None else target.structure.group
    layer = Layer(hessian, group, keeps_values)
    rows = [len(weight) for weight in weights]
    mask = torch.cat([one.mask for one in pruned])
    allowed = torch.ones_like(mask) if masks is None else torch.cat(list(masks))
    original = torch.cat([weight.to(hessian.dtype) for weight in weights]) * allowed
    new = torch.cat([one.weight.to(hessian.dtype) for one in pruned])
    if not keeps_values:
        new = conjugate_gradients(hessian, original, new, mask)
    parts = [
        swap(layer, original[at], new[at], mask[at], allowed[at])
        for at in torch.arange(len(new), device=new.device).split(layer.rows_at_once())
    ]
    new, mask = (torch.cat(list(part)) for part in zip(*parts))
    if not keeps_values:
        new = conjugate_gradients(hessian, original, new, mask)
    return [
        better_rows(hessian, start, before, values, kept)
        for start, before, values, kept in zip(
            original.split(rows), pruned, new.split(rows), mask.split(rows)
        )
    ]


def row_errors(hessian: Tensor, delta: Tensor) -> Tensor:
    """Return `DT H D` of each row of D, [rows]."""
    return ((delta @ hessian) * delta).sum(1)


def better_rows(
    hessian: Tensor, original: Tensor, before: Pruned, values: Tensor, mask: Tensor
) -> Pruned:
    """Take the refined rows whose error fell, measured in the weight's own dtype."""
    weight = values.to(before.weight.dtype)
    errors = [row_errors(hessian, original - w.to(original.dtype)) for w in (weight, before.weight)]
    better = (errors[0] < errors[1])[:, None]
    return Pruned(
        torch.where(better, weight, before.weight),
        torch.where(better, mask, before.mask),
        fell_back=before.fell_back,
    )


def conjugate_gradients(hessian: Tensor, original: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """Move the survivors of each row towards least squares on their support, never away from it.

    Each row is its own system `H[S, S] (change) = c[S]`. All rows step together, with the diagonal
    as preconditioner.
    """
    diagonal = hessian.diagonal()
    inverse = torch.where(diagonal > 0, 1 / diagonal, 0.0)
    residual = ((original - new) @ hessian).masked_fill_(~mask, 0)
    direction = residual * inverse
    size = (residual * direction).sum(1, keepdim=True)
    for _ in range(CG_STEPS):
        image = (direction @ hessian).masked_fill_(~mask, 0)
        curvature = (direction * image).sum(1, keepdim=True)
        step = torch.where(curvature > 0, size / curvature, 0.0)
        new = new + step * direction
        residual = residual - step * image
        scaled = residual * inverse
        size, before = (residual * scaled).sum(1, keepdim=True), size
        direction = scaled + torch.where(before > 0, size / before, 0.0) * direction
    return new
