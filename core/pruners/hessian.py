"""Second moments of layer inputs, and the one triangular factor that the solvers need.

`H = 2/n sum(x xT)` over n calibration tokens is the Hessian of a layer's squared output error in
each row of its weights (Hassibi & Stork 1993; SparseGPT, arXiv 2301.00774).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from core.parallel import ALONE, Ranks
from core.pruners.pruner import PruningError, Statistic

logger = logging.getLogger(__name__)

# Each failed Cholesky multiplies the damping by this. Above the limit H says too little to prune.
DAMPENING_STEP, DAMPENING_LIMIT = 10.0, 1.0
# Columns of one product while H accumulates: wide enough for full speed, narrow enough to skip the
# half above the diagonal.
ACCUMULATION_BLOCK = 256
# Columns factored at once between two products.
FACTOR_BLOCK = 128
# Columns mirrored at once: a block row and its transposed copy fit in a core's cache.
MIRROR_BLOCK = 64


class InputNorms(Statistic):
    """Sum of squares of each input (Wanda): `||x_j||^2` over all tokens."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        self.squares = torch.zeros(in_features, dtype=torch.float32, device=device)
        self.num_tokens = torch.zeros((), dtype=torch.float64)

    def update(self, inputs: Tensor) -> None:
        """Add inputs [tokens, in_features]."""
        self.squares += inputs.float().square().sum(0)
        self.num_tokens += len(inputs)

    def tensors(self) -> list[Tensor]:
        """Return squares and count."""
        return [self.squares, self.num_tokens]

    def rms(self) -> Tensor:
        """Return the root mean square of each input, [in_features]."""
        return (self.squares / self.num_tokens.item()).sqrt()


class Hessian(Statistic):
    """Sum of `x xT`. Only block rows up to the diagonal are computed."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        self.products = torch.zeros(in_features, in_features, dtype=torch.float32, device=device)
        self.num_tokens = torch.zeros((), dtype=torch.float64)

    def update(self, inputs: Tensor) -> None:
        """Add inputs [tokens, in_features]; products and sums are float32."""
        inputs = inputs.float()
        width = inputs.shape[1]
        for start in range(0, width, ACCUMULATION_BLOCK):
            end = min(start + ACCUMULATION_BLOCK, width)
            self.products[start:end, :end].addmm_(inputs[:, start:end].T, inputs[:, :end])
        self.num_tokens += len(inputs)

    def tensors(self) -> list[Tensor]:
        """Return products and count."""
        return [self.products, self.num_tokens]

    def matrix(self) -> Tensor:
        """Return `H = 2/n sum(x xT)`, symmetric [in_features, in_features]."""
        full = self.products * (2.0 / self.num_tokens.item())
        width = len(full)
        for start in range(0, width, MIRROR_BLOCK):
            end = min(start + MIRROR_BLOCK, width)
            full[:start, start:end] = full[start:end, :start].T
            corner = full[start:end, start:end]
            corner.copy_(corner.tril() + corner.tril(-1).T)
        return full


@dataclass(frozen=True)
class Factor:
    """`H + damping = L LT` with L upper triangular: column j depends on the columns before it."""

    lower: Tensor
    """The transpose of L, [cols, cols], in the memory order in which the solver reads it."""
    dead: Tensor
    """[cols] bool, inputs that were always zero."""
    dampening_frac: float
    """Share of the mean diagonal that was added."""
    any_dead: bool = True
    """False if no input was always zero. This saves passes over all scores in the usual case."""
    ranks: Ranks = ALONE
    """The ranks that hold this factor and solve some rows each with it."""

    @property
    def upper(self) -> Tensor:
        """Return L, [cols, cols]."""
        return self.lower.T


def factorise(hessian: Tensor, dampening_frac: float, ranks: Ranks = ALONE) -> Factor:
    """Factor a damped Hessian. While it is not positive definite, damp it more, step by step.

    Several ranks must hold the same Hessian; all of them get the factor.

    This replaces the original's Cholesky of the inverse, `inv(H) = UT U` with `U = inv(L)`. It
    takes a quarter of the operations and does not invert H.

    Raises:
        PruningError: not positive definite at the largest damping; names the value to try.
    """
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    mean = diagonal.mean().double()
    frac = dampening_frac
    while True:
        damped = (diagonal + frac * mean).masked_fill_(dead, 1.0)
        lower, definite = reversed_cholesky(hessian, damped)
        # The host waits here once, for both answers.
        fine, any_dead = torch.stack((definite, dead.any())).tolist()
        if fine:
            return Factor(lower, dead, frac, any_dead, ranks)
        if frac >= DAMPENING_LIMIT:
            raise PruningError(
                f"the Hessian is not positive definite with damping {frac:g}; "
                f"try --prune.dampening-frac {frac * DAMPENING_STEP:g} or more calibration samples"
            )
        frac = min(frac * DAMPENING_STEP, DAMPENING_LIMIT)
        logger.warning("Hessian not positive definite; damping raised to %g", frac)


def reversed_cholesky(hessian: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Return the transpose of L, upper triangular with `L LT = hessian`.

    L is the Cholesky factor of the matrix with both axes flipped, flipped back. To flip no more
    than a block, this goes over block rows from the last to the first. Each takes one product with
    the finished rows, so it runs at the speed of products, which a library's factor does not.

    Args:
        hessian: symmetric [cols, cols]; read below its diagonal and in its diagonal blocks.
        diagonal: replaces the diagonal, [cols].

    Returns:
        The factor, and a scalar tensor that is True if the matrix is positive definite.
    """
    size = len(hessian)
    lower = torch.zeros_like(hessian)
    failed = torch.zeros((), dtype=torch.int32, device=hessian.device)
    for start in reversed(range(0, size, FACTOR_BLOCK)):
        end = min(start + FACTOR_BLOCK, size)
        row = lower[start:end, :end]
        row.copy_(hessian[start:end, :end])
        corner = row[:, start:]
        corner.diagonal().copy_(diagonal[start:end])
        row.addmm_(lower[end:, start:end].T, lower[end:, :end], alpha=-1)
        root, info = torch.linalg.cholesky_ex(corner.flip(0, 1))
        failed |= info
        corner.copy_(root.flip(0, 1).T)
        if start:
            row[:, :start] = inverse_triangle(corner).T @ row[:, :start]
    return lower, (failed == 0) & torch.isfinite(lower.diagonal()).all()


def inverse_triangle(lower: Tensor) -> Tensor:
    """Return the inverses of lower triangles [..., n, n], as exact as their dtype allows.

    Products with an inverse are faster than triangular solves with many right-hand sides.
    """
    eye = torch.eye(lower.shape[-1], dtype=torch.float64, device=lower.device)
    return torch.linalg.solve_triangular(lower.double(), eye, upper=False).to(lower.dtype)
