"""SparseGPT: prune and compensate, column by column, from one triangular factor.

Frantar & Alistarh, arXiv 2301.00774. With `H = L LT`, L upper triangular, and D = original minus
new weights, the compensated value of column j is `w_j + (D[:, :j] @ L[:j, j]) / L[j, j]` and
pruning it costs `(w_j L[j, j])^2`. The reference works with the Cholesky factor U of the inverse
Hessian instead: `U[j, j] = 1 / L[j, j]`, and its running updates of all later columns sum to the
product above. Differences from the reference: no inverse (one Cholesky instead of three passes),
exact counts (it prunes one weight too many per block), dead inputs are pruned within the quota,
quantisation grids are found on the weights before pruning.

Time goes into one Cholesky factor and products with whole blocks of finished columns. Within a
block a column costs two calls on contiguous memory. `experiments/studies/solvers.md` says what was
tried instead.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import ClassVar, final

import torch
from torch import Tensor

from core.accelerator import is_accelerator
from core.methods import METHODS, Method
from core.pruners import panels, stacked
from core.pruners.column_choice import ChooseMask, structured_choice, unstructured_choice
from core.pruners.hessian import DAMPENING_STEP, Factor, Hessian, factorise
from core.pruners.masks import keep_earlier, require_room
from core.pruners.pruner import (
    Ask,
    Pruned,
    Pruner,
    PruningError,
    Solution,
    Statistic,
    all_finite,
    each,
)
from core.pruners.quantise import Grid, find_grid
from core.ranks import Ranks
from core.split.costs import Work
from core.split.factor import inverse_triangle
from core.targets import Target


@final
@dataclass(frozen=True)
class SparseGPT(Pruner):
    """Masks are chosen for `block_size` columns (N:M: for M), on compensated weights."""

    facts: ClassVar[Method] = METHODS["sparsegpt"]
    statistic: ClassVar[type[Statistic] | None] = Hessian

    def prune_checked(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        targets: Sequence[Target],
        masks: Sequence[Tensor] | None,
        ranks: Ranks,
    ) -> Solution:
        """Solve all matrices of one input in one pass, their rows stacked."""
        assert isinstance(statistic, Hessian)
        factor = factorise(statistic.matrix(), self.config.dampening_frac, ranks)
        grid = None
        if self.config.weight_bits is not None:
            stacked = torch.cat([weight.float() for weight in weights])
            grid = find_grid(stacked, self.config.weight_bits, self.config.quant_group_size)
        matrices = solve(weights, factor, targets, self.config.block_size, masks, grid)
        if not all_finite([matrix.weight for matrix in matrices]):
            raise PruningError(
                f"compensated weights overflow with damping {factor.dampening_frac:g}; "
                f"try --prune.dampening-frac {factor.dampening_frac * DAMPENING_STEP:g}"
            )
        return Solution(matrices, factor.dampening_frac)

    @torch.no_grad()
    def prune_stack(self, asks: Sequence[Ask]) -> list[Solution | None]:
        """Solve all layers in one pass, unless survivors are rounded."""
        if self.config.weight_bits is not None:
            return super().prune_stack(asks)
        return stacked.prune(asks, self.config)

    def work(self, rows: Sequence[int], cols: int) -> Work:
        """Return a factor and a pass over matrices [rows_i, cols]."""
        selections = -(-cols // self.config.block_size)
        by_row = 1.0 * sum(rows) * cols**2
        return Work(tuple(rows), cols, by_row, 1, selections=selections, columns=cols)


def solve(
    weights: Sequence[Tensor],
    factor: Factor,
    target: Target | Sequence[Target],
    block_size: int,
    masks: Sequence[Tensor] | None = None,
    grid: Grid | None = None,
) -> list[Pruned]:
    """Prune matrices [rows_i, cols] that share `factor`; each has its own mask thresholds.

    The targets of all matrices have the same structure. Survivors are rounded to `grid`, the grid
    of the stacked matrices, if there is one.
    """
    targets = each(target, weights)
    structure = targets[0].structure
    # Columns become rows: each step then reads and writes contiguous memory.
    original = torch.cat([w.to(factor.lower.dtype).T for w in weights], dim=1)
    earlier = None
    if masks is not None:
        earlier = torch.cat([mask.T for mask in masks], dim=1)
        original *= earlier
    narrow = grid is not None or not is_accelerator(original.device)
    panel = panels.WIDTH_CPU if narrow else panels.WIDTH_ACCELERATOR
    ends, panel = panels.blocks(len(original), structure, block_size, panel)
    rows = [len(weight) for weight in weights]
    if structure is None:
        choose = unstructured_choice(rows, ends, targets, masks, factor.ranks)
    else:
        for mask in masks or ():
            require_room(mask, structure, factor.ranks)
        choose = structured_choice(structure)
    sweep = Sweep(original, factor, choose, earlier, grid)
    sweep.run(ends, panel, by_panel=structure is not None)
    grids = [None] * len(rows) if grid is None else grid.split(rows)
    return [
        Pruned(part.to(weight.dtype), kept, own)
        for part, kept, own, weight in zip(
            sweep.result().split(rows), sweep.mask.T.contiguous().split(rows), grids, weights
        )
    ]


class Sweep:
    """One pass over all columns of stacked matrices; all tensors are transposed, [cols, rows]."""

    def __init__(
        self,
        original: Tensor,
        factor: Factor,
        choose: ChooseMask,
        earlier: Tensor | None,
        grid: Grid | None,
    ) -> None:
        self.original = original
        self.lower = factor.lower
        # None if there is none: this saves a pass over all scores in the usual case.
        self.dead = factor.dead if factor.any_dead else None
        self.choose, self.earlier, self.grid = choose, earlier, grid
        self.mask = torch.empty_like(original, dtype=torch.bool)
        # Original minus new weights. For a pruned weight this is the original itself, so a column
        # that was not visited yet holds what it loses if it is pruned.
        self.delta = original.clone()

    def result(self) -> Tensor:
        """Return the new weights [rows, cols]: plus zero where pruned, as `delta` is `original`."""
        new = torch.sub(self.original, self.delta, out=self.original).T.contiguous()
        # Round again: the difference may have lost the last bit.
        return new if self.grid is None else self.grid.round(new).masked_fill_(~self.mask.T, 0)

    def run(self, ends: list[int], panel: int, by_panel: bool) -> None:
        """Solve all columns.

        Args:
            ends: the end of each mask block.
            panel: columns solved between matrix products.
            by_panel: choose masks panel by panel (N:M) instead of block by block.
        """
        width = max(end - start for start, end in pairwise([0, *ends]))
        pulls = self.original.new_empty(width, self.original.shape[1])
        scorers = self.scorers(range(0, ends[-1], panel) if by_panel else [0, *ends[:-1]])
        together = by_panel and is_accelerator(self.original.device)
        for start, end in pairwise([0, *ends]):
            # L[:start, block]T @ D[:start]: the effect of the finished columns on this block.
            pull = pulls[: end - start]
            torch.mm(self.lower[start:end, :start], self.delta[:start], out=pull)
            if together:
                self.solve_groups(pull, start, panel, scorers)
            else:
                self.solve_block(pull, start, panel, scorers, by_panel)

    def solve_block(
        self, pull: Tensor, start: int, panel: int, scorers: Iterator[Tensor], by_panel: bool
    ) -> None:
        """Solve the columns of a mask block from `start` on, as many as `pull` has."""
        end = start + len(pull)
        if not by_panel:
            self.mask[start:end] = self.pick(pull, start, next(scorers))
        corner = self.lower[start:end, start:end]
        rates = panels.rates(corner)
        scale = -corner.diagonal()[:, None]
        for first in range(start, end, panel):
            last = min(first + panel, end)
            span, before = slice(first - start, last - start), slice(0, first - start)
            inner = pull[span]
            if first > start:
                inner.addmm_(corner[span, before], self.delta[start:first])
            if by_panel:
                self.mask[first:last] = self.pick(inner, first, next(scorers))
            inner /= scale[span]
            self.solve_panel(inner, rates[span, span], first, last)

    def solve_groups(self, pull: Tensor, start: int, group: int, scorers: Iterator[Tensor]) -> None:
        """Do the same for N:M groups of columns in few operations.

        The scores of a group and what earlier columns do to it are linear in their `delta`, so one
        product gives both.
        """
        end = start + len(pull)
        corner, original = self.lower[start:end, start:end], self.original[start:end]
        few = panels.Groups(corner, original, pull, list(islice(scorers, len(pull) // group)))
        rates = panels.rates(corner)
        for index, first in enumerate(range(start, end, group)):
            last = first + group
            span = slice(first - start, last - start)
            scores, inner = few.scores_and_inner(index, self.delta[start:first])
            self.mask[first:last] = self.chosen(scores, first)
            self.solve_panel(inner, rates[span, span], first, last)

    def scorers(self, starts: Sequence[int]) -> Iterator[Tensor]:
        """Yield `diag(L) inv(L)T` of the corner of each span of columns that is chosen at once.

        All spans but the last have the same width, so one call inverts them together.
        """
        ends = [*starts[1:], len(self.lower)]
        corners = [self.lower[start:end, start:end] for start, end in zip(starts, ends)]
        last = corners.pop()
        for triangles in ([torch.stack(corners)] if corners else []) + [last[None]]:
            scale = triangles.diagonal(dim1=-2, dim2=-1)[..., None]
            yield from (inverse_triangle(triangles) * scale).unbind()

    def solve_panel(self, inner: Tensor, rates: Tensor, first: int, last: int) -> None:
        """Solve columns; `inner` is what all columns before the panel do to `delta`."""
        delta, mask = self.delta[first:last], self.mask[first:last]
        if self.grid is not None:
            round_column = functools.partial(self.rounded, first)
            panels.solve_by_column_(delta, mask, inner, rates, round_column)
        elif last - first > panels.SHORT and is_accelerator(delta.device):
            panels.solve_by_row_(delta, mask, inner, rates)
        else:
            panels.solve_by_column_(delta, mask, inner, rates)

    def rounded(self, first: int, j: int, step: Tensor) -> Tensor:
        """Return `delta` of column `first + j` whose new weight is rounded to the grid."""
        original = self.original[first + j]
        assert self.grid is not None
        return original - self.grid.round_column(original - step, first + j)

    def pick(self, pull: Tensor, start: int, scorer: Tensor) -> Tensor:
        """Return the mask of columns `start ...`, scored as if all columns before were final.

        `pull` is `L[:start, columns]T @ D[:start]`. `inv(L[columns, columns])T` turns it into the
        change of the weights when no column of the block is pruned yet.
        """
        span = slice(start, start + len(pull))
        scores = self.original[span] * self.lower.diagonal()[span, None]
        return self.chosen(scores.addmm_(scorer, pull), start)

    def chosen(self, scores: Tensor, start: int) -> Tensor:
        """Return the mask of columns `start ...` from the roots of their scores."""
        span = slice(start, start + len(scores))
        scores.square_()
        if self.dead is not None:
            scores.masked_fill_(self.dead[span, None], -1.0)
        earlier = None if self.earlier is None else self.earlier[span]
        return self.choose(keep_earlier(scores, earlier), start)
