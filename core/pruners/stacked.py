"""SparseGPT of many layers of one shape at once: the experts of a layer, each with its own H.

Alone, an expert is too small to keep an accelerator busy, and each of its columns costs launches.
Here all tensors have the experts in front, and an operation is that of `sparsegpt.py` for all of
them. Every matrix has the same exact count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from core.accelerator import is_accelerator
from core.config import PruneConfig
from core.pruners import panels
from core.pruners.hessian import Hessian
from core.pruners.masks import group_survivors, keep_earlier, lowest, quotas_of
from core.pruners.pruner import Ask, Pruned, Solution
from core.split.factor import FACTOR_BLOCK, inverse_triangle
from core.targets import MaskStructure

ChooseMask = Callable[[Tensor, int], Tensor]
"""(scores [experts, cols, rows] of some columns, the first of them) -> which weights survive."""
Quotas = tuple[tuple[int, ...], ...]
"""Weights that each block of columns prunes, for each matrix of an expert."""


def prune(asks: Sequence[Ask], config: PruneConfig) -> list[Solution | None]:
    """Prune layers as `SparseGPT.prune` prunes each.

    Returns:
        None for a layer whose counts differ from those of the first, whose H is not positive
        definite with this damping, or whose weights or inputs are not finite.
    """
    first, found = asks[0], list[Solution | None]([None] * len(asks))
    rows, structure = [len(weight) for weight in first.weights], first.targets[0].structure
    on_device = is_accelerator(first.weights[0].device)
    width = panels.WIDTH_ACCELERATOR if on_device else panels.WIDTH_CPU
    ends, panel = panels.blocks(first.weights[0].shape[1], structure, config.block_size, width)
    earlier = earlier_of(asks)
    if structure is None:
        wanted = [quotas(ask, ends, gone) for ask, gone in zip(asks, gone_of(asks, earlier))]
        places = [place for place, quota in enumerate(wanted) if quota == wanted[0]]
        choose = unstructured_choice(rows, wanted[0], ends)
    else:
        places, choose = [*range(len(asks))], structured_choice(structure)
    taken = [asks[place] for place in places]
    earlier = None if earlier is None else earlier[places]
    lower, dead, good = factorise(hessians_of(taken), config.dampening_frac)
    original = torch.stack([torch.cat(list(ask.weights)).T for ask in taken]).to(lower.dtype)
    if earlier is not None:
        original *= earlier
        good &= have_room(earlier, structure)
    sweep = StackedSweep(original, lower, dead, choose, earlier)
    sweep.run(ends, panel, by_panel=structure is not None)
    new = torch.sub(original, sweep.delta).mT.to(first.weights[0].dtype).contiguous()
    good &= torch.isfinite(new).flatten(1).all(1)
    masks = sweep.mask.mT.contiguous()
    # The host waits here once, for all answers.
    for place, is_good, weight, mask in zip(places, good.tolist(), new, masks):
        if is_good:
            parts = map(Pruned, weight.split(rows), mask.split(rows))
            found[place] = Solution(list(parts), config.dampening_frac)
    return found


def earlier_of(asks: Sequence[Ask]) -> Tensor | None:
    """Return the earlier masks [experts, cols, rows], or None if there are none."""
    if asks[0].masks is None:
        return None
    return torch.stack([torch.cat(list(ask.masks or ())).T for ask in asks])


def gone_of(asks: Sequence[Ask], earlier: Tensor | None) -> Tensor:
    """Return how many weights earlier masks pruned, [experts, matrices, cols] on the host."""
    weights = asks[0].weights
    if earlier is None:
        return torch.zeros(len(asks), len(weights), weights[0].shape[1], dtype=torch.long)
    parts = (~earlier).split([len(weight) for weight in weights], dim=2)
    return torch.stack([part.sum(2) for part in parts], dim=1).cpu()


def quotas(ask: Ask, ends: Sequence[int], gone: Tensor) -> Quotas:
    """Return the counts of a layer, of which earlier masks pruned `gone` [matrices, cols]."""
    return tuple(
        tuple(quotas_of(len(weight), by_column, ends, target.sparsity))
        for weight, by_column, target in zip(ask.weights, gone, ask.targets, strict=True)
    )


def have_room(earlier: Tensor, structure: MaskStructure | None) -> Tensor:
    """Return for each expert if its earlier masks leave enough survivors in each N:M group."""
    if structure is None:
        return torch.ones(len(earlier), dtype=torch.bool, device=earlier.device)
    kept = earlier.unflatten(1, (-1, structure.group)).sum(2)
    return (kept >= structure.survivors).flatten(1).all(1)


def hessians_of(asks: Sequence[Ask]) -> Tensor:
    """Return H of each input, symmetric [experts, cols, cols]; NaN where no token was seen."""
    statistics = [ask.statistic for ask in asks if isinstance(ask.statistic, Hessian)]
    found = torch.stack([one.products for one in statistics])
    counts = torch.stack([one.num_tokens for one in statistics])
    found *= (2.0 / counts).to(found)[:, None, None]
    return found.tril_().add_(found.tril(-1).mT)


def factorise(hessians: Tensor, dampening_frac: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the transposes of L, dead inputs [experts, cols], and which factors are right.

    Those that are not positive definite with this damping are not.
    """
    diagonal = hessians.diagonal(dim1=1, dim2=2)
    dead = diagonal == 0
    added = (dampening_frac * diagonal.mean(1, keepdim=True).double()).float()
    damped = (diagonal + added).masked_fill_(dead, 1.0)
    lower = torch.zeros_like(hessians)
    failed = torch.zeros(len(hessians), dtype=torch.int32, device=hessians.device)
    for start in reversed(range(0, hessians.shape[1], FACTOR_BLOCK)):
        end = min(start + FACTOR_BLOCK, hessians.shape[1])
        row = hessians[:, start:end, :end].clone()
        row[:, :, start:].diagonal(dim1=1, dim2=2).copy_(damped[:, start:end])
        row.baddbmm_(lower[:, end:, start:end].mT, lower[:, end:, :end], alpha=-1)
        root, info = torch.linalg.cholesky_ex(row[:, :, start:].flip(1, 2))
        corner = root.flip(1, 2).mT
        failed |= info
        lower[:, start:end, start:end] = corner
        lower[:, start:end, :start] = inverse_triangle(corner).mT @ row[:, :, :start]
    finite = torch.isfinite(lower.diagonal(dim1=1, dim2=2)).all(1)
    return lower, dead, (failed == 0) & finite


def unstructured_choice(rows: Sequence[int], quotas: Quotas, ends: Sequence[int]) -> ChooseMask:
    """Return a choice for whole blocks: each matrix prunes its quota of lowest scores."""
    by_start = dict(zip([0, *ends], zip(*quotas)))

    def choose(scores: Tensor, start: int) -> Tensor:
        parts = zip(scores.split(list(rows), dim=2), by_start[start])
        return ~torch.cat([lowest_of_each(part, count) for part, count in parts], dim=2)

    return choose


def lowest_of_each(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` lowest scores of each expert, [experts, cols, rows]."""
    return lowest(scores.flatten(1), count).view(scores.shape)


def structured_choice(structure: MaskStructure) -> ChooseMask:
    """Return a choice for one group of M columns: the N highest scores of each row survive."""
    count = structure.group - structure.survivors

    def choose(scores: Tensor, start: int) -> Tensor:
        groups = scores.transpose(0, 1)
        kept = group_survivors(groups.flatten(1), count)
        return kept.view(groups.shape).transpose(0, 1)

    return choose


class StackedSweep:
    """One pass over all columns; all tensors are transposed, [experts, cols, rows]."""

    def __init__(
        self,
        original: Tensor,
        lower: Tensor,
        dead: Tensor,
        choose: ChooseMask,
        earlier: Tensor | None,
    ) -> None:
        self.original, self.lower, self.dead = original, lower, dead
        self.choose, self.earlier = choose, earlier
        self.mask = torch.empty_like(original, dtype=torch.bool)
        self.delta = original.clone()

    def run(self, ends: Sequence[int], panel: int, by_panel: bool) -> None:
        """Solve all columns; the arguments are those of `sparsegpt.Sweep.run`."""
        for start, end in pairwise([0, *ends]):
            pull = self.lower[:, start:end, :start] @ self.delta[:, :start]
            corner = self.lower[:, start:end, start:end]
            if not by_panel:
                self.mask[:, start:end] = self.pick(pull, start, corner)
            scale = -corner.diagonal(dim1=1, dim2=2)[..., None]
            rates = corner / scale
            rates.diagonal(dim1=1, dim2=2).zero_()
            for first in range(start, end, panel):
                last = min(first + panel, end)
                span, before = slice(first - start, last - start), slice(0, first - start)
                inner = pull[:, span]
                if first > start:
                    inner = inner + corner[:, span, before] @ self.delta[:, start:first]
                if by_panel:
                    self.mask[:, first:last] = self.pick(inner, first, corner[:, span, span])
                self.solve_panel(inner / scale[:, span], rates[:, span, span], first, last)

    def pick(self, pull: Tensor, start: int, corner: Tensor) -> Tensor:
        """Return the mask of some columns; see `sparsegpt.Sweep.pick`."""
        span = slice(start, start + pull.shape[1])
        scale = corner.diagonal(dim1=1, dim2=2)[..., None]
        scores = torch.baddbmm(
            self.original[:, span] * scale, inverse_triangle(corner) * scale, pull
        ).square_()
        scores.masked_fill_(self.dead[:, span, None], -1.0)
        earlier = None if self.earlier is None else self.earlier[:, span]
        return self.choose(keep_earlier(scores, earlier), start)

    def solve_panel(self, inner: Tensor, rates: Tensor, first: int, last: int) -> None:
        """Solve a few columns; `inner` is what all columns before them do to `delta`."""
        delta, mask = self.delta[:, first:last], self.mask[:, first:last]
        if last - first > panels.SHORT and is_accelerator(delta.device):
            systems = mask.mT[..., None] * -rates[:, None]
            wanted = torch.where(mask, inner, delta).mT[..., None]
            solved = torch.linalg.solve_triangular(systems, wanted, upper=False, unitriangular=True)
            delta.copy_(solved[..., 0].mT)
            return
        for j in range(last - first):
            step = inner[:, j]
            if j:
                step = torch.baddbmm(step[:, None], rates[:, j : j + 1], delta)[:, 0]
            delta[:, j] = torch.where(mask[:, j], step, delta[:, j])
