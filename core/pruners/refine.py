"""Refines any method's mask: swaps a survivor for a pruned weight while that lowers the error.

The swaps are SparseSwaps (arXiv 2512.10922), see `swaps.py`. They keep the counts of every row, and
of every group of N:M. A weight that an earlier mask of the branch pruned is never revived.

If survivors keep their values (magnitude, Wanda), a revived weight gets its original value, as in
the paper. If the method moves survivors (SparseGPT, ALPS), a revived weight gets the value that
lowers the error most. Then also, before and after the swaps, all survivors of a row take a few
steps of conjugate gradients from the method's values towards least squares on their support. At the
end the error is computed anew on values of the weight's own dtype, and a row whose error did not
fall stays as the method left it.

Errors are those of the H that the method's solve worked on, with its damping. Without the damping,
swaps after a short calibration fit its few tokens and lose perplexity on others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from core.methods import OPTION_VERSIONS, Method
from core.pruners.conjugate_gradients import descend_
from core.pruners.hessian import Hessian, InputNorms
from core.pruners.pruner import Pruned, Pruner, Solution, Statistic
from core.pruners.swaps import Layer, swap
from core.ranks import Ranks
from core.split.costs import Work
from core.targets import Target

STEPS = 10
"""Steps of conjugate gradients before the swaps, and after them."""


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
        targets: Sequence[Target],
        masks: Sequence[Tensor] | None,
        ranks: Ranks,
    ) -> Solution:
        """Prune with the method, then refine all matrices of the input together."""
        assert isinstance(statistic, Hessian)
        hessian = statistic.matrix()
        own: Statistic | None = statistic
        if self.method.statistic is InputNorms:
            own = norms(hessian, statistic.num_tokens)
        solution = self.method.prune(weights, own, targets, masks, ranks)
        hessian = damped(hessian, solution.dampening_frac)
        keeps_values = self.method.facts.keeps_values
        matrices = refine(hessian, weights, solution.matrices, targets[0], masks, keeps_values)
        return replace(solution, matrices=matrices)

    def work(self, rows: Sequence[int], cols: int) -> Work:
        """Return the method's, plus conjugate gradients before and after; swaps are no products."""
        products = 0 if self.method.facts.keeps_values else 2 * (STEPS + 1)
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
        hessian: H of the input, damped as the solve did it, [cols, cols].
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
        new = least_squares(hessian, original, new, mask)
    parts = [
        swap(layer, original[at], new[at], mask[at], allowed[at])
        for at in torch.arange(len(new), device=new.device).split(layer.rows_at_once())
    ]
    new, mask = (torch.cat(list(part)) for part in zip(*parts))
    if not keeps_values:
        new = least_squares(hessian, original, new, mask)
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


def least_squares(hessian: Tensor, original: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """Return weights whose survivors have moved towards least squares on their support.

    H is scaled to a diagonal of 1, as ALPS does it.
    """
    units = hessian.diagonal().sqrt()
    units = torch.where(units > 0, units, 1.0)
    scaled = hessian / units[:, None] / units
    moved = new * units
    descend_(moved, original * units, mask, scaled, STEPS)
    return moved / units


def damped(hessian: Tensor, dampening_frac: float | None) -> Tensor:
    """Return the H that a solve worked on; the same one for a method without damping."""
    if not dampening_frac:
        return hessian
    found, dead = hessian.clone(), hessian.diagonal() == 0
    shift = (dampening_frac * hessian.diagonal().mean()).expand(len(found))
    found.diagonal().add_(shift.masked_fill(dead, 0.0))
    return found
