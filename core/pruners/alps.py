"""ALPS: ADMM finds the support of a whole matrix, then conjugate gradients find its weights.

Meng, Behdin, Wang & Mazumder, arXiv 2406.07831. The layer problem `min tr(D H DT)`, D = original
minus new weights, under an exact count of zeros, is split into weights W that may be dense, a
sparse copy of them, and a dual V that ties the two with a penalty rho. The penalty grows until the
support hardly moves (their algorithm 1). Then preconditioned conjugate gradients solve for the
surviving weights (algorithm 2), many rows at a time. Differences from the paper:

- It starts from SparseGPT's weights instead of the dense weights without their smallest. So it ends
  at lower errors. The dual starts at zero: with the one that belongs to SparseGPT's weights the
  support hardly leaves SparseGPT's, and at 0.9 errors were up to 3.6 times the official code's.
- Penalties grow by a fixed factor, so that matrices of one input share their inverses. The official
  code's penalty follows the support's change, and its steps end when the support settles.
- It takes one Cholesky inverse for each penalty instead of an eigendecomposition of H. Each step is
  then one product of rows n^2 instead of two, and the penalty changes only every few steps.
- If the found support ends above SparseGPT's undamped error, that matrix takes SparseGPT's support,
  refined by conjugate gradients on the undamped H. The stage's record names it in `fell_back`. So
  the error is at most SparseGPT's on every matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul
from typing import ClassVar, final

import torch
from torch import Tensor

from core.accelerator import is_accelerator
from core.methods import METHODS, Method
from core.pruners.conjugate_gradients import CG_STEPS, descend_
from core.pruners.hessian import DAMPENING_STEP, Factor, Hessian, factorise
from core.pruners.masks import at_least, group_mask, keep_earlier, lowest_pruned, num_pruned
from core.pruners.pruner import Pruned, Pruner, PruningError, Solution, Statistic, all_finite
from core.pruners.sparsegpt import SparseGPT, solve
from core.ranks import Ranks
from core.split.costs import Work
from core.targets import Target

# Penalties in units of the scaled H, whose diagonal is 1, and the steps with each. Their number is
# fixed: to stop when the support settles would couple matrices that are solved together.
PENALTY, GROWTH, NUM_PENALTIES, STEPS = 0.05, 1.3, 12, 3


@final
@dataclass(frozen=True)
class Alps(Pruner):
    """ADMM for the support, conjugate gradients for the weights; starts from SparseGPT's result."""

    facts: ClassVar[Method] = METHODS["alps"]
    statistic: ClassVar[type[Statistic] | None] = Hessian

    def prune_checked(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        targets: Sequence[Target],
        masks: Sequence[Tensor] | None,
        ranks: Ranks,
    ) -> Solution:
        """Solve all matrices of one input together, their rows stacked."""
        assert isinstance(statistic, Hessian)
        hessian = statistic.matrix()
        factor = factorise(hessian, self.config.dampening_frac, ranks)
        dense = [w.to(hessian.dtype) for w in weights]
        if masks is not None:
            dense = [w * mask for w, mask in zip(dense, masks, strict=True)]
        start = solve(dense, factor, targets, self.config.block_size, masks)
        layer = scale(hessian, factor)
        matrices = layer.prune(dense, start, targets, masks)
        pruned = [
            replace(m, weight=m.weight.to(weight.dtype))
            for m, weight in zip(matrices, weights, strict=True)
        ]
        if not all_finite([matrix.weight for matrix in pruned]):
            raise PruningError(
                f"compensated weights overflow with damping {factor.dampening_frac:g}; "
                f"try --prune.dampening-frac {factor.dampening_frac * DAMPENING_STEP:g}"
            )
        return Solution(pruned, factor.dampening_frac)

    def work(self, rows: Sequence[int], cols: int) -> Work:
        """Return SparseGPT's, plus an inverse for each penalty and a product for each step."""
        # Besides the steps: the pull, the first residual, two errors.
        products = NUM_PENALTIES * STEPS + CG_STEPS + 4
        first = SparseGPT(self.config).work(rows, cols)
        return replace(
            first,
            by_row=first.by_row + products * 2.0 * sum(rows) * cols**2,
            inverses=NUM_PENALTIES,
            selections=first.selections + NUM_PENALTIES * STEPS * len(rows),
        )


@dataclass(frozen=True)
class Layer:
    """The layer problem, scaled to a damped H with a diagonal of 1 (Jacobi preconditioning)."""

    hessian: Tensor
    """H damped and scaled, [cols, cols]; of a dead input only the diagonal entry 1 is not zero."""
    damping: Tensor
    """[cols], the part of that diagonal that damping added; all of it for a dead input."""
    units: Tensor
    """[cols], scaled weights = weights * units."""
    dead: Tensor
    """[cols] bool, inputs that were always zero."""
    any_dead: bool
    """False if there is none. This saves a pass over all scores in the usual case."""
    ranks: Ranks
    """The ranks that solve some rows each of these matrices."""

    def prune(
        self,
        dense: list[Tensor],
        start: list[Pruned],
        targets: Sequence[Target],
        earlier: Sequence[Tensor] | None,
    ) -> list[Pruned]:
        """Return masks and weights whose undamped error is at most that of `start`, each matrix."""
        searches = [
            Search(self, original, begin, targets[i], earlier[i] if earlier else None)
            for i, (original, begin) in enumerate(zip(dense, start, strict=True))
        ]
        rho, failed = PENALTY, torch.zeros((), dtype=torch.int32, device=self.units.device)
        for inverse, info in self.inverses():
            failed |= info
            for search in searches:
                for _ in range(STEPS):
                    search.step(inverse, rho)
                search.grow()
            rho *= GROWTH
        found = [search.solved(rho) for search in searches]
        failed = self.ranks.sum_(failed)
        # The host waits for the device here, once for all matrices.
        indefinite, *lost = torch.stack([failed != 0, *(lost for _, lost in found)]).tolist()
        if indefinite:
            raise PruningError(
                "the damped Hessian is not positive definite; use a higher --prune.dampening-frac"
            )
        return [
            search.result(weight, fell_back)
            for search, (weight, _), fell_back in zip(searches, found, lost)
        ]

    def inverse(self, rho: float) -> tuple[Tensor, Tensor]:
        """Return the inverse of `H + rho`, and a scalar that is not 0 if that is not definite."""
        shifted = self.hessian.clone()
        shifted.diagonal().add_(rho)
        root, info = torch.linalg.cholesky_ex(shifted)
        if not is_accelerator(root.device):
            return torch.cholesky_inverse(root), info
        # On CUDA `cholesky_inverse` does the same, and then the host waits for its error code.
        eye = torch.eye(len(root), dtype=root.dtype, device=root.device)
        return torch.cholesky_solve(eye, root), info

    def inverses(self) -> Iterator[tuple[Tensor, Tensor | int]]:
        """Yield what `inverse` returns for each penalty; ranks compute in turn and send.

        Collective. Only the rank that computed an inverse has its scalar, the others have 0.
        """
        size = self.ranks.size
        penalties = list(accumulate([GROWTH] * (NUM_PENALTIES - 1), mul, initial=PENALTY))
        for start in range(0, NUM_PENALTIES, size):
            turn = penalties[start : start + size]
            own = None
            if self.ranks.rank < len(turn):
                own = self.inverse(turn[self.ranks.rank])
            for owner in range(len(turn)):
                if owner != self.ranks.rank or own is None:
                    inverse, info = torch.empty_like(self.hessian), 0
                else:
                    inverse, info = own
                if size > 1:
                    inverse = inverse.contiguous()
                self.ranks.broadcast_(inverse, owner)
                yield inverse, info

    def moved(self, mask: Tensor) -> Tensor:
        """Return the survivors of living inputs in rows that lost one: those that compensate."""
        return mask & ~self.dead & (~mask & ~self.dead).any(1, keepdim=True)

    def error(self, delta: Tensor) -> Tensor:
        """Return `tr(D H DT)`, a scalar, for the undamped H and a scaled D (collective)."""
        square = ((delta @ self.hessian - delta * self.damping) * delta).sum()
        return self.ranks.sum_(square)

    def refine(self, goal: Tensor, weight: Tensor, mask: Tensor, damped: bool) -> Tensor:
        """Refine the survivors of each row by conjugate gradients; rows of a chunk step together.

        Args:
            goal: original weights, scaled [rows, cols].
            weight: the starting point, scaled [rows, cols].
            mask: the survivors.
            damped: use the damped H.
        """
        hessian = self.hessian if damped else self.undamped()
        free = self.moved(mask)
        start = torch.where(free, weight, goal).mul_(mask)
        descend_(start, goal, free, hessian)
        return start

    def undamped(self) -> Tensor:
        """Return H without damping, scaled; row and column of a dead input are zero."""
        hessian = self.hessian.clone()
        hessian.diagonal().sub_(self.damping)
        return hessian


class Search:
    """ADMM on one matrix. Its numbers do not depend on the matrices solved with it.

    `state` carries both unknowns. Where a weight survives it is rho times the sparse copy and the
    dual V is zero. Elsewhere it is the dual and the sparse copy is zero.
    """

    def __init__(
        self, layer: Layer, original: Tensor, start: Pruned, target: Target, earlier: Tensor | None
    ) -> None:
        self.layer, self.original, self.start = layer, original, start
        # Weights and earlier masks are counted once, not in each step.
        self.target, self.earlier = at_least(target, earlier, layer.ranks), earlier
        self.count = num_pruned(self.target.sparsity, layer.ranks.total(original.numel()))
        self.goal, self.begin = original * layer.units, start.weight * layer.units
        self.pull = self.goal @ layer.hessian
        self.mask = start.mask
        self.state = self.begin * PENALTY

    def step(self, inverse: Tensor, rho: float) -> None:
        """Take one step: new weights, then the support of the largest and the dual of the others.

        Products with ones and zeros are several times faster than filling by a mask.
        """
        kept = self.mask.to(self.state.dtype)
        weight = torch.addcmul(self.pull, self.state, kept - 0.5, value=2) @ inverse
        self.state.addcmul_(self.state, kept, value=-1).add_(weight, alpha=rho)
        scores = self.state.abs()
        if self.layer.any_dead:
            scores.masked_fill_(self.layer.dead, -1.0)
        scores = keep_earlier(scores, self.earlier)
        if self.target.structure is not None:
            self.mask = group_mask(scores, self.target.structure)
        else:
            self.mask = lowest_pruned(scores, self.count, self.layer.ranks)

    def grow(self) -> None:
        """Scale the sparse copy in `state` to the next penalty."""
        self.state *= 1 + self.mask.to(self.state.dtype) * (GROWTH - 1)

    def solved(self, rho: float) -> tuple[Tensor, Tensor]:
        """Return least squares on the found support, scaled, and True if the first has less error.

        Both are tensors, so that the host need not wait.
        """
        weight = self.layer.refine(self.goal, self.state / rho, self.mask, damped=True)
        error = self.layer.error
        return weight, error(self.goal - weight) > error(self.goal - self.begin)

    def result(self, weight: Tensor, fell_back: bool) -> Pruned:
        """Return `solved`'s scaled weights, or least squares on the first support if that won."""
        layer, mask = self.layer, self.mask
        if fell_back:
            mask = self.start.mask
            weight = layer.refine(self.goal, self.begin, mask, damped=False)
        new = torch.where(layer.moved(mask), weight / layer.units, self.original)
        return Pruned(new.masked_fill_(~mask, 0), mask, fell_back=fell_back)


def scale(hessian: Tensor, factor: Factor) -> Layer:
    """Return the layer problem scaled to a diagonal of 1, whatever the size of its inputs."""
    dead = factor.dead
    mean = hessian.diagonal().mean()
    damped = hessian / torch.where(mean == 0, 1.0, mean)
    damped.diagonal().add_(factor.dampening_frac).masked_fill_(dead, 1.0)
    units = damped.diagonal().sqrt()
    damped /= units[:, None]
    damped /= units
    damping = (factor.dampening_frac / units.square()).masked_fill_(dead, 1.0)
    return Layer(damped, damping, units, dead, factor.any_dead, factor.ranks)
