"""Refines any method's mask: swaps a survivor for a pruned weight while that lowers the error.

SparseSwaps (arXiv 2512.10922), a local search row by row. With `H = 2/n sum(x xT)`, D = original
minus new weights of a row and `c = H D`, the row's reconstruction error is `DT H D`, half of it the
mean square error of its output. Pruning the survivor p and reviving the weight q with value v adds
`new_p e_p - v e_q` to D and so changes the error by

    2 new_p c_p + new_p^2 H_pp  -  2 v c_q + v^2 H_qq  -  2 new_p v H_pq.

Counts stay what they were in every row, and in every group of N:M, where swaps stay within the
group. What an earlier mask of the branch pruned is never revived.

Where survivors keep their values (magnitude, Wanda) so does a revived weight: v is the original
weight, as in the paper. Where the method moves survivors (SparseGPT, ALPS) v is the value that
lowers the error most, `v = (c_q + new_p H_pq) / H_qq`, and before and after the swaps all survivors
of a row take a few steps of conjugate gradients towards their least squares on the support,
starting from the method's values. A row whose error is not lower in the end, computed afresh on
values of the weight's own dtype, stays what the method made of it.

The best pair is looked for among the 32 x 32 pairs of the weights that are cheapest to prune and
most worth reviving by themselves (N:M: among all pairs of each group). On the embedded model 128
candidates end at errors within 1.2 % of those with 32, for 8 to 14 times the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from core.methods import OPTION_VERSIONS, Method
from core.pruners.base import Pruned, Pruner, Solution, Statistic
from core.pruners.hessian import Hessian, InputNorms
from core.targets import Target

# Survivors and pruned weights of a row whose pairs are tried: those cheapest by themselves.
CANDIDATES = 32
# A swap counts if it takes at least this share of the row's first error away.
TOLERANCE = 1e-5
MAX_SWAPS_PER_WEIGHT = 0.5  # of a row
CG_STEPS = 10
CHUNK = 2**24  # pairs that one step looks at together; bounds memory


@final
@dataclass(frozen=True)
class Refined(Pruner):
    """Another method's pruner and the swaps after it."""

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
    ) -> Solution:
        """Prunes with the method, then refines all matrices of the input together."""
        assert isinstance(statistic, Hessian)
        hessian = statistic.matrix()
        own: Statistic | None = statistic
        if self.method.statistic is InputNorms:
            own = norms(hessian, statistic.num_tokens)
        solution = self.method.prune(weights, own, target, masks)
        matrices = refine(
            hessian, weights, solution.matrices, target, masks, self.method.facts.keeps_values
        )
        return replace(solution, matrices=matrices)

    def solve_operations(self, rows: Sequence[int], cols: int) -> float:
        """The method's, and conjugate gradients before and after; swaps are no products."""
        products = 0 if self.method.facts.keeps_values else 2 * (CG_STEPS + 1)
        before = self.method.solve_operations(rows, cols)
        return before + products * 2.0 * sum(rows) * cols**2


def norms(hessian: Tensor, num_tokens: Tensor) -> InputNorms:
    """The sums of squares that a Hessian's diagonal holds."""
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
    """Lowers the reconstruction error of pruned matrices that share an input, row by row.

    Args:
        hessian: H of the input, [cols, cols].
        weights: matrices [rows_i, cols] before pruning.
        pruned: the same matrices after it, whose counts per row and group stay.
        target: what they were pruned to; only its structure is read.
        masks: earlier masks of the branch, or None.
        keeps_values: whether survivors keep their original value.
    """
    group = None if target.structure is None else target.structure.group
    rows = [len(weight) for weight in weights]
    mask = torch.cat([one.mask for one in pruned])
    allowed = torch.ones_like(mask) if masks is None else torch.cat(list(masks))
    original = torch.cat([weight.to(hessian.dtype) for weight in weights]) * allowed
    new = torch.cat([one.weight.to(hessian.dtype) for one in pruned])
    if not keeps_values:
        new = conjugate_gradients(hessian, original, new, mask)
    chunk = max(1, CHUNK // (CANDIDATES**2 if group is None else group * len(hessian)))
    parts = [
        swap(hessian, original[at], new[at], mask[at], allowed[at], group, keeps_values)
        for at in torch.arange(len(new), device=new.device).split(chunk)
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
    """`DT H D` of each row of D, [rows]."""
    return ((delta @ hessian) * delta).sum(1)


def better_rows(
    hessian: Tensor, original: Tensor, before: Pruned, values: Tensor, mask: Tensor
) -> Pruned:
    """Takes over the rows whose error fell, as it is in the weight's own dtype."""
    weight = values.to(before.weight.dtype)
    errors = [row_errors(hessian, original - w.to(original.dtype)) for w in (weight, before.weight)]
    better = (errors[0] < errors[1])[:, None]
    return Pruned(
        torch.where(better, weight, before.weight),
        torch.where(better, mask, before.mask),
        fell_back=before.fell_back,
    )


def conjugate_gradients(hessian: Tensor, original: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """Moves the survivors of each row towards least squares on their support; never away from it.

    Each row is its own system `H[S, S] (change) = c[S]`; all take their steps together, with the
    diagonal as preconditioner.
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


@dataclass
class Rows:
    """Rows that still find swaps; all [rows, cols] but `index` and `least`."""

    index: Tensor
    original: Tensor
    new: Tensor
    mask: Tensor
    allowed: Tensor
    pull: Tensor  # `H D`
    least: Tensor  # what a swap must gain, [rows]

    def only(self, keep: Tensor) -> Rows:
        """Some of the rows."""
        return Rows(**{name: value[keep] for name, value in vars(self).items()})


def swap(
    hessian: Tensor,
    original: Tensor,
    new: Tensor,
    mask: Tensor,
    allowed: Tensor,
    group: int | None,
    keeps_values: bool,
) -> tuple[Tensor, Tensor]:
    """Swaps one pair a row at a time, each row's best, until none is worth it."""
    new, mask = new.clone(), mask.clone()
    pull = (original - new) @ hessian
    least = TOLERANCE * (pull * (original - new)).sum(1)
    index = torch.arange(len(new), device=new.device)
    rows = Rows(index, original, new.clone(), mask.clone(), allowed, pull, least)
    for _ in range(int(MAX_SWAPS_PER_WEIGHT * len(hessian))):
        pair = best_pair(hessian, rows, group, keeps_values)
        found = pair.change < -rows.least
        count = int(found.sum())
        if count < len(rows.index) / 2:
            # Rows without a swap left are written back, so that the work shrinks with them.
            new[rows.index], mask[rows.index] = rows.new, rows.mask
            if count == 0:
                break
            rows, pair = rows.only(found), Pair(*(part[found] for part in pair))
            found = found[found]
        apply_(hessian, rows, pair, found)
    new[rows.index], mask[rows.index] = rows.new, rows.mask
    return new, mask


class Pair(NamedTuple):
    """The best swap of each row, each [rows]."""

    change: Tensor
    """Of the row's error."""
    prune: Tensor
    revive: Tensor
    value: Tensor
    """Of the revived weight."""


def best_pair(hessian: Tensor, rows: Rows, group: int | None, keeps_values: bool) -> Pair:
    """The pair that lowers each row's error most, among its candidates or within its groups."""
    diagonal = hessian.diagonal()
    cost = rows.new * (2 * rows.pull + rows.new * diagonal)
    cost.masked_fill_(~rows.mask, torch.inf)
    if keeps_values:
        gain = rows.original * (rows.original * diagonal - 2 * rows.pull)
    else:
        gain = -rows.pull.square() / diagonal.clamp(min=torch.finfo(diagonal.dtype).tiny)
    gain.masked_fill_(rows.mask | ~rows.allowed, torch.inf)
    if group is None:
        count = min(CANDIDATES, len(hessian))
        prune, revive = (
            t.topk(count, largest=False, sorted=False).indices[:, None] for t in (cost, gain)
        )
    else:
        # The same columns in every row, so one gather of H serves them all.
        prune = revive = torch.arange(len(hessian), device=hessian.device).view(1, -1, group)
    return cheapest(hessian, rows, cost, gain, prune, revive, keeps_values)


def cheapest(
    hessian: Tensor,
    rows: Rows,
    cost: Tensor,
    gain: Tensor,
    prune: Tensor,
    revive: Tensor,
    keeps_values: bool,
) -> Pair:
    """The best of all pairs of columns `prune` x `revive`, both [rows or 1, groups, k]."""
    shape = (len(cost), *prune.shape[1:])

    def at(values: Tensor, columns: Tensor) -> Tensor:
        return values.gather(1, columns.expand(shape).flatten(1)).view(shape)

    cross = hessian[prune[..., None], revive[..., None, :]]
    cross = cross * at(rows.new, prune)[..., None]
    if keeps_values:
        value = at(rows.original, revive)[..., None, :].expand(*shape, shape[-1])
        change = at(gain, revive)[..., None, :] - 2 * cross * value
    else:
        curvature = hessian.diagonal()[revive][..., None, :]
        curvature = curvature.clamp(min=torch.finfo(curvature.dtype).tiny)
        value = (at(rows.pull, revive)[..., None, :] + cross) / curvature
        change = -value.square() * curvature
        change = change.masked_fill(at(gain, revive)[..., None, :] == torch.inf, torch.inf)
    change = (change + at(cost, prune)[..., None]).flatten(1)
    best, place = change.min(1)
    left, right = place // shape[-1], place // shape[-1] ** 2 * shape[-1] + place % shape[-1]

    prune, revive = (
        columns.expand(shape).flatten(1).gather(1, where[:, None])[:, 0]
        for columns, where in ((prune, left), (revive, right))
    )
    return Pair(best, prune, revive, value.flatten(1).gather(1, place[:, None])[:, 0])


def apply_(hessian: Tensor, rows: Rows, pair: Pair, found: Tensor) -> None:
    """Swaps in the rows where a swap was found."""
    row = found.nonzero()[:, 0]
    prune, revive, value = pair.prune[row], pair.revive[row], pair.value[row]
    pruned = rows.new[row, prune]
    rows.pull[row] += pruned[:, None] * hessian[prune] - value[:, None] * hessian[revive]
    rows.new[row, prune] = 0
    rows.new[row, revive] = value
    rows.mask[row, prune] = False
    rows.mask[row, revive] = True
