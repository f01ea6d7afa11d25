"""Second moments of layer inputs, and the one triangular factor that the solvers need.

`H = 2/n sum(x xT)` over n calibration tokens is the Hessian of a layer's squared output error in
each row of its weights (Hassibi & Stork 1993; SparseGPT, arXiv 2301.00774).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from core.pruners.pruner import TOO_LARGE, PruningError, Statistic
from core.ranks import ALONE, Ranks
from core.split.costs import ACCUMULATION_BLOCK, Machine, shares_factor
from core.split.factor import reversed_cholesky

logger = logging.getLogger(__name__)

# Each failed Cholesky multiplies the damping by this. Above the limit H says too little to prune.
DAMPENING_STEP, DAMPENING_LIMIT = 10.0, 1.0
# Columns mirrored at once: a block row and its transposed copy fit in a core's cache.
MIRROR_BLOCK = 64


class InputNorms(Statistic):
    """Sum of squares of each input (Wanda): `||x_j||^2` over all tokens."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        self.squares = torch.zeros(in_features, dtype=torch.float32, device=device)
        self.num_tokens = torch.zeros((), dtype=torch.float64)
        self.sums = torch.zeros(in_features, dtype=torch.float32, device=device)

    def update(self, inputs: Tensor) -> None:
        """Add inputs [tokens, in_features]."""
        inputs = inputs.float()
        self.squares += inputs.square().sum(0)
        self.sums += inputs.sum(0)
        self.num_tokens += len(inputs)

    def tensors(self) -> list[Tensor]:
        """Return squares, sums and count."""
        return [self.squares, self.sums, self.num_tokens]

    def rms(self) -> Tensor:
        """Return the root mean square of each input, [in_features]."""
        return (self.squares / self.num_tokens.item()).sqrt()


class Hessian(Statistic):
    """Sum of `x xT`. Only block rows up to the diagonal are computed."""

    def __init__(self, in_features: int, device: torch.device) -> None:
        self.products = torch.zeros(in_features, in_features, dtype=torch.float32, device=device)
        self.num_tokens = torch.zeros((), dtype=torch.float64)
        self.sums = torch.zeros(in_features, dtype=torch.float32, device=device)

    def update(self, inputs: Tensor) -> None:
        """Add inputs [tokens, in_features]; products and sums are float32."""
        inputs = inputs.float()
        width = inputs.shape[1]
        for start in range(0, width, ACCUMULATION_BLOCK):
            end = min(start + ACCUMULATION_BLOCK, width)
            self.products[start:end, :end].addmm_(inputs[:, start:end].T, inputs[:, :end])
        self.sums += inputs.sum(0)
        self.num_tokens += len(inputs)

    def tensors(self) -> list[Tensor]:
        """Return the block rows that are computed, up to the diagonal, and the rest."""
        starts = range(0, len(self.products), ACCUMULATION_BLOCK)
        ends = [*starts[1:], len(self.products)]
        rows = [self.products[start:end, :end] for start, end in zip(starts, ends, strict=True)]
        return [*rows, self.sums, self.num_tokens]

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

    This replaces the original's Cholesky of the inverse, `inv(H) = UT U` with `U = inv(L)`. It
    takes a quarter of the operations and does not invert H.

    Args:
        hessian: H [cols, cols], the same on all ranks.
        dampening_frac: the first damping to try.
        ranks: all of them get the factor; they share the work where that is sooner (collective).

    Raises:
        PruningError: not positive definite at the largest damping; names the value to try. Or the
            mean of the diagonal overflows.
    """
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    mean = diagonal.mean().double()
    frac = dampening_frac
    sharing = ranks if shares_factor(len(hessian), ranks.size, Machine.of(ranks)) else ALONE
    while True:
        damped = (diagonal + frac * mean).masked_fill_(dead, 1.0)
        lower, definite = reversed_cholesky(hessian, damped, sharing)
        # The host waits here once, for both answers.
        large = ~mean.isfinite()
        definite, any_dead, large = torch.stack((definite, dead.any(), large)).tolist()
        if large:
            raise PruningError(TOO_LARGE)
        # One rank may round otherwise than another, but all must go on alike.
        if not ranks.total(int(not definite)):
            return Factor(lower, dead, frac, any_dead, ranks)
        if frac >= DAMPENING_LIMIT:
            raise PruningError(
                f"the Hessian is not positive definite with damping {frac:g}; "
                f"try --prune.dampening-frac {frac * DAMPENING_STEP:g} or more calibration samples"
            )
        frac = min(frac * DAMPENING_STEP, DAMPENING_LIMIT)
        logger.warning("Hessian not positive definite; damping raised to %g", frac)
