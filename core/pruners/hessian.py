"""Second moments of layer inputs, and the one triangular factor the solvers need.

`H = 2/n sum(x xT)` over n calibration tokens is the Hessian of a layer's squared output error in
each row of its weights (Hassibi & Stork 1993; SparseGPT, arXiv 2301.00774).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from core.pruners.base import PruningError, Statistic

logger = logging.getLogger(__name__)

# Each failed Cholesky multiplies the damping by this; beyond the limit H says too little to prune.
DAMPENING_STEP, DAMPENING_LIMIT = 10.0, 1.0
# Columns a product covers while H accumulates; wide enough for full speed, narrow enough that the
# half above the diagonal is skipped.
ACCUMULATION_BLOCK = 512
# Columns that are mirrored at once; a block row and its transposed copy fit in a core's cache.
MIRROR_BLOCK = 64


class InputNorms(Statistic):
    """Sum of squares of each input (Wanda): `||x_j||^2` over all tokens."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        self.squares = torch.zeros(in_features, dtype=torch.float32, device=device)
        self.num_tokens = torch.zeros((), dtype=torch.float64)

    def update(self, inputs: Tensor) -> None:
        """Adds inputs [tokens, in_features]."""
        self.squares += inputs.float().square().sum(0)
        self.num_tokens += len(inputs)

    def tensors(self) -> list[Tensor]:
        """Squares and count."""
        return [self.squares, self.num_tokens]

    def rms(self) -> Tensor:
        """Root mean square of each input, [in_features]."""
        return (self.squares / self.num_tokens.item()).sqrt()


class Hessian(Statistic):
    """Sum of `x xT`, of which only block rows up to the diagonal are computed."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        self.products = torch.zeros(in_features, in_features, dtype=torch.float32, device=device)
        self.num_tokens = torch.zeros((), dtype=torch.float64)

    def update(self, inputs: Tensor) -> None:
        """Adds inputs [tokens, in_features]; products and sums in float32."""
        inputs = inputs.float()
        width = inputs.shape[1]
        for start in range(0, width, ACCUMULATION_BLOCK):
            end = min(start + ACCUMULATION_BLOCK, width)
            self.products[start:end, :end].addmm_(inputs[:, start:end].T, inputs[:, :end])
        self.num_tokens += len(inputs)

    def tensors(self) -> list[Tensor]:
        """Products and count."""
        return [self.products, self.num_tokens]

    def matrix(self) -> Tensor:
        """`H = 2/n sum(x xT)`, symmetric [in_features, in_features]."""
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
    """`H + damping = L LT` with L upper triangular: column j depends on columns before it."""

    upper: Tensor
    """L, [cols, cols]."""
    dead: Tensor
    """[cols] bool, inputs that were always zero."""
    dampening_frac: float
    """Share of the mean diagonal that was added."""


def factorise(hessian: Tensor, dampening_frac: float) -> Factor:
    """Factors a damped Hessian, damping more, in recorded steps, while it is not definite.

    L comes from the Cholesky factor of H with both axes flipped, flipped back. It replaces the
    original's Cholesky of the inverse, `inv(H) = UT U` with `U = inv(L)`, at a quarter of the
    operations and without inverting H.

    Raises:
        PruningError: not positive definite at the largest damping; names the value to try.
    """
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    mean = diagonal.mean().item()
    frac = dampening_frac
    while True:
        damped = torch.flip(hessian, (0, 1))
        damped.diagonal().add_(frac * mean).masked_fill_(dead.flip(0), 1.0)
        lower, info = torch.linalg.cholesky_ex(damped)
        if info.item() == 0 and torch.isfinite(lower.diagonal()).all():
            # The flip of the transpose lies row by row in memory, the way the solver reads it.
            return Factor(torch.flip(lower.mT, (0, 1)).mT, dead, frac)
        if frac >= DAMPENING_LIMIT:
            raise PruningError(
                f"the Hessian is not positive definite with damping {frac:g}; "
                f"try --prune.dampening-frac {frac * DAMPENING_STEP:g} or more calibration samples"
            )
        frac = min(frac * DAMPENING_STEP, DAMPENING_LIMIT)
        logger.warning("Hessian not positive definite; damping raised to %g", frac)
