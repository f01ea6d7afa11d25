"""ALPS: ADMM finds the support of a whole matrix, conjugate gradients the weights on it.

Meng, Behdin, Wang & Mazumder, arXiv 2406.07831. The layer problem `min tr(D H DT)`, D = original
minus new weights, under an exact count of zeros, is split into weights W that may be dense, a
sparse copy of them, and a dual V that ties the two with a penalty rho, which grows until the
support hardly moves (their algorithm 1); preconditioned conjugate gradients then solve for the
surviving weights (algorithm 2), all rows in one batch. Differences from the paper:

- It starts from SparseGPT's weights and support, with the dual that belongs to them, instead of
  from the dense weights: the penalty can start higher, and fewer steps are needed.
- One Cholesky inverse per penalty instead of an eigendecomposition of H: each step is then one
  product of rows n^2 instead of two, and the penalty changes only every few steps.
- Where the found support ends above SparseGPT's undamped error, that matrix takes SparseGPT's
  support, refined by conjugate gradients on the undamped H; the log says so. The error is thus at
  most SparseGPT's on every matrix.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from core.config import Target
from core.pruners.base import (
    COMMON_FIELDS,
    Pruned,
    Pruner,
    PruningError,
    Solution,
    Statistic,
)
from core.pruners.hessian import DAMPENING_STEP, Factor, Hessian, factorise
from core.pruners.masks import choose
from core.pruners.sparsegpt import solve

logger = logging.getLogger(__name__)

# Penalties in units of the scaled H, whose diagonal is 1, and steps taken with each. Their number
# is fixed: a stop that looks at the support would couple matrices that are solved together.
PENALTY, GROWTH, NUM_PENALTIES, STEPS = 0.1, 1.5, 12, 2
# Conjugate-gradient steps at most; a row stops when its residual fell by this factor. Fewer leave
# weights that depend on the order of sums: 25 steps differ by 3e-4 between stacked and single rows.
CG_STEPS, CG_TOLERANCE = 60, 1e-5


@final
@dataclass(frozen=True)
class Alps(Pruner):
    """ADMM for the support, conjugate gradients for the weights; starts from SparseGPT's."""

    name: ClassVar[str] = "alps"
    version: ClassVar[int] = 1
    fields_read: ClassVar[tuple[str, ...]] = (*COMMON_FIELDS, "dampening_frac", "block_size")
    statistic: ClassVar[type[Statistic] | None] = Hessian

    def prune_checked(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        target: Target,
        masks: Sequence[Tensor] | None,
    ) -> Solution:
        """Solves all matrices of one input together, their rows stacked."""
        assert isinstance(statistic, Hessian)
        hessian = statistic.matrix()
        factor = factorise(hessian, self.config.dampening_frac)
        dense = [w.to(hessian.dtype) for w in weights]
        if masks is not None:
            dense = [w * mask for w, mask in zip(dense, masks, strict=True)]
        start = solve(dense, factor, target, self.config.block_size, masks)
        layer = scale(hessian, factor)
        matrices = layer.prune(dense, start, target, masks)
        pruned = [
            Pruned(m.weight.to(weight.dtype), m.mask)
            for m, weight in zip(matrices, weights, strict=True)
        ]
        if not all(torch.isfinite(matrix.weight).all() for matrix in pruned):
            raise PruningError(
                f"compensated weights overflow with damping {factor.dampening_frac:g}; "
                f"try --prune.dampening-frac {factor.dampening_frac * DAMPENING_STEP:g}"
            )
        return Solution(pruned, factor.dampening_frac)


@dataclass(frozen=True)
class Layer:
    """The problem in units in which the damped H has a diagonal of 1 (Jacobi preconditioning)."""

    hessian: Tensor
    """Damped and scaled, [cols, cols]; a dead input is alone with a 1."""
    damping: Tensor
    """[cols], what of that diagonal is not in the undamped H; all of it for a dead input."""
    units: Tensor
    """[cols], scaled weights = weights * units."""
    dead: Tensor
    """[cols] bool, inputs that were always zero."""

    def prune(
        self,
        dense: list[Tensor],
        start: list[Pruned],
        target: Target,
        earlier: Sequence[Tensor] | None,
    ) -> list[Pruned]:
        """Masks and weights at or below the undamped error of `start`, matrix by matrix."""
        rows = [len(weight) for weight in dense]
        original = torch.cat(dense)
        goal = original * self.units
        first = torch.cat([matrix.mask for matrix in start])
        begin = torch.cat([matrix.weight for matrix in start]) * self.units
        mask, weight = self.admm(goal, begin, first, rows, target, earlier)
        weight = self.refine(goal, weight, mask, torch.zeros_like(self.damping))
        lost = [
            bool(new > old)
            for new, old in zip(
                self.errors(goal - weight, rows), self.errors(goal - begin, rows), strict=True
            )
        ]
        if any(lost):
            logger.info("ALPS keeps SparseGPT's support in %d of %d matrices", sum(lost), len(lost))
            chosen = torch.tensor(lost, device=mask.device).repeat_interleave(
                torch.tensor(rows, device=mask.device)
            )
            again = self.refine(goal[chosen], begin[chosen], first[chosen], self.damping)
            weight[chosen], mask[chosen] = again, first[chosen]
        moved = self.moved(mask)
        new = torch.where(moved, weight / self.units, original).masked_fill_(~mask, 0)
        return [Pruned(w, m) for w, m in zip(new.split(rows), mask.split(rows), strict=True)]

    def moved(self, mask: Tensor) -> Tensor:
        """Survivors that compensate: of living inputs, in rows that lost a living input."""
        return mask & ~self.dead & (~mask & ~self.dead).any(1, keepdim=True)

    def errors(self, delta: Tensor, rows: list[int]) -> list[Tensor]:
        """`tr(D H DT)` of each matrix, H undamped, D [sum(rows), cols] scaled."""
        by_row = ((delta @ self.hessian - delta * self.damping) * delta).sum(1)
        return [part.sum() for part in by_row.split(rows)]

    def admm(
        self,
        goal: Tensor,
        begin: Tensor,
        mask: Tensor,
        rows: list[int],
        target: Target,
        earlier: Sequence[Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """The support and the sparse weights on it after the penalty has grown.

        One matrix carries both: where a weight survives, `state` is rho times its sparse copy,
        elsewhere it is the dual V; the other of the two is zero there.
        """
        pull = goal @ self.hessian
        rho = PENALTY
        state = torch.where(mask, begin * rho, pull - begin @ self.hessian)
        eye = torch.eye(len(self.units), dtype=goal.dtype, device=goal.device)
        inverse = eye
        for step in range(NUM_PENALTIES * STEPS):
            if step % STEPS == 0:
                grown = PENALTY * GROWTH ** (step // STEPS)
                state = torch.where(mask, state * (grown / rho), state)
                rho = grown
                inverse = torch.cholesky_inverse(torch.linalg.cholesky(self.hessian + rho * eye))
            weight = (pull + torch.where(mask, state, -state)) @ inverse
            state = state.masked_fill_(mask, 0).add_(weight, alpha=rho)
            mask = self.support(state, rows, target, earlier)
        return mask, (state / rho).masked_fill_(~mask, 0)

    def support(
        self, state: Tensor, rows: list[int], target: Target, earlier: Sequence[Tensor] | None
    ) -> Tensor:
        """Each matrix keeps its largest entries; dead inputs go first, within the count."""
        scores = state.abs().masked_fill_(self.dead, -1.0)
        masks = [
            choose(part, target, earlier[i] if earlier else None)
            for i, part in enumerate(scores.split(rows))
        ]
        return torch.cat(masks)

    def refine(self, goal: Tensor, weight: Tensor, mask: Tensor, shift: Tensor) -> Tensor:
        """Conjugate gradients on the survivors of each row, all rows at once.

        Args:
            goal: original weights, scaled [rows, cols].
            weight: where to start.
            mask: the survivors.
            shift: what to take off the diagonal of H, [cols]: nothing or the damping.
        """
        free = self.moved(mask)
        kept = torch.where(free, weight, goal).masked_fill_(~mask, 0)
        delta = goal - kept
        residual = (delta @ self.hessian - delta * shift).mul_(free)
        direction = residual.clone()
        square = residual.square().sum(1, keepdim=True)
        enough = square * CG_TOLERANCE**2
        for _ in range(CG_STEPS):
            product = (direction @ self.hessian - direction * shift).mul_(free)
            curvature = (direction * product).sum(1, keepdim=True)
            # A row that is solved, or flat within rounding, stands still.
            going = (square > enough) & (curvature > 0)
            if not going.any():
                break
            length = torch.where(going, square / curvature, 0.0)
            kept.addcmul_(length, direction)
            residual.addcmul_(length, product, value=-1)
            previous, square = square, residual.square().sum(1, keepdim=True)
            direction.mul_(torch.where(going, square / previous, 0.0)).add_(residual)
        return kept


def scale(hessian: Tensor, factor: Factor) -> Layer:
    """Brings a layer's damped H to a diagonal of 1, whatever the size of its inputs."""
    dead = factor.dead
    mean = hessian.diagonal().mean().item() or 1.0
    damped = hessian / mean
    damped.diagonal().add_(factor.dampening_frac).masked_fill_(dead, 1.0)
    units = damped.diagonal().sqrt()
    damped /= units[:, None]
    damped /= units
    damping = (factor.dampening_frac / units.square()).masked_fill_(dead, 1.0)
    return Layer(damped, damping, units, dead)
