"""The contract of every pruner: statistics of a layer's inputs in, masks and weights out.

Place in the flow: `activations.py` runs a block on calibration windows and feeds the inputs of its
matrices to `Statistic`s, one for all matrices that read the same input. `sequential.py` sums the
statistics over ranks and hands them with the matrices to `Pruner.prune`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from core.config import PruneConfig
from core.methods import Method
from core.pruners.quantise import Grid
from core.ranks import ALONE, Ranks
from core.split.costs import Work
from core.targets import Target

TOO_LARGE = (
    "calibration inputs are so large that sums of their squares overflow float32; use another "
    "--calibration.text, or look for the weights that make them"
)


class PruningError(ArithmeticError):
    """A solve cannot go on. The message is one line and names the remedy."""


class Statistic(ABC):
    """A sum over calibration tokens of one layer input of width `in_features`.

    Statistics of disjoint sets of tokens add up: ranks sum `tensors()` element by element.
    """

    num_tokens: Tensor
    """Tokens seen; a float64 scalar, so that ranks sum it like the other tensors."""
    sums: Tensor
    """Sum of each input, [in_features] float32. They are finite if all values are, also where sums
    of squares overflow."""

    @abstractmethod
    def __init__(self, in_features: int, device: torch.device) -> None: ...

    @abstractmethod
    def update(self, inputs: Tensor) -> None:
        """Add inputs [tokens, in_features] of any float dtype."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """Return the tensors that ranks sum in place, `num_tokens` and `sums` among them."""

    def merge_(self, other: Self, share: float = 1.0) -> None:
        """Add another statistic of such inputs, as if this share of each of its tokens were one."""
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine.add_(theirs, alpha=share)

    def require_finite(self) -> None:
        """Raise PruningError if no token was seen, or the sums are not finite."""
        if self.num_tokens.item() == 0:
            raise PruningError("no calibration token reached this layer")
        if all_finite([tensor for tensor in self.tensors() if tensor is not self.num_tokens]):
            return
        if all_finite([self.sums]):
            raise PruningError(TOO_LARGE)
        raise PruningError("a calibration input is NaN or infinite; try --dtype float32")


@dataclass(frozen=True)
class Pruned:
    """One matrix after pruning."""

    weight: Tensor
    """[rows, cols] in its original dtype, exactly zero where pruned."""
    mask: Tensor
    """[rows, cols] bool, True = the weight survives."""
    grid: Grid | None = None
    """Grid to which the survivors were rounded; None if they were not."""
    fell_back: bool = False
    """True if ALPS ended above SparseGPT's error here and took SparseGPT's support instead."""


@dataclass(frozen=True)
class Solution:
    """Matrices that read one input, pruned together."""

    matrices: list[Pruned]
    dampening_frac: float | None = None
    """Damping that the factor needed; None if the method has none."""


@dataclass(frozen=True)
class Ask:
    """One solve: matrices that share one input; the arguments of `Pruner.prune`."""

    weights: Sequence[Tensor]
    statistic: Statistic | None
    targets: Sequence[Target]
    masks: Sequence[Tensor] | None


@dataclass(frozen=True)
class Pruner(ABC):
    """A method. Subclasses are final and stateless; numbers depend on the arguments alone.

    Callers call `prune`, which checks weights and statistic. A method implements `prune_checked`.
    """

    config: PruneConfig

    facts: ClassVar[Method]
    """Name, version and the settings that it reads, from `core/methods.py`."""
    statistic: ClassVar[type[Statistic] | None] = None
    """Statistic of inputs that the method needs; `facts` names the same one."""

    @final
    @torch.no_grad()
    def prune(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        target: Target | Sequence[Target],
        masks: Sequence[Tensor] | None = None,
        ranks: Ranks = ALONE,
    ) -> Solution:
        """Prune matrices that share one input.

        No gradient flows through it. Several ranks can share the work (collective). Each passes
        some rows of every matrix, the first rank the first ones, and the same statistic. Weights
        must be finite on all ranks.

        Args:
            weights: matrices [rows_i, cols], not modified.
            statistic: the merged statistic of their input, None if the method needs none.
            target: sparsity or N:M structure, or one for each matrix with the same structure.
                Counts are exact: `round(s * n)` of a matrix of n weights; Wanda with a uniform
                allocation prunes `round(s * cols)` of each row.
            masks: earlier masks of the branch; weights that they pruned stay pruned.
            ranks: the ranks that solve the other rows of these matrices.

        Returns:
            New weights and masks, in the order of `weights`.

        Raises:
            PruningError: non-finite weights or inputs, or no positive definite Hessian.
        """
        require_finite(weights)
        if self.statistic is not None:
            assert isinstance(statistic, self.statistic)
            statistic.require_finite()
        return self.prune_checked(weights, statistic, each(target, weights), masks, ranks)

    def prune_stack(self, asks: Sequence[Ask]) -> list[Solution | None]:
        """Prune layers of equal shapes and structure at once, on one rank.

        Returns:
            A solution of each; None where `prune` has to find it, or to say why there is none.
        """
        return [None] * len(asks)

    @abstractmethod
    def work(self, rows: Sequence[int], cols: int) -> Work:
        """Return the work of an unstructured solve of matrices of one input, for plans.

        Args:
            rows: the rows of each matrix.
            cols: the width of the input; gathering its statistic is not counted.
        """

    @abstractmethod
    def prune_checked(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        targets: Sequence[Target],
        masks: Sequence[Tensor] | None,
        ranks: Ranks,
    ) -> Solution:
        """Prune as `prune` does; weights and statistic are finite and of the right type."""


def each(target: Target | Sequence[Target], weights: Sequence[Tensor]) -> list[Target]:
    """Return the target of each matrix; all have the same structure."""
    targets = [target] * len(weights) if isinstance(target, Target) else list(target)
    assert len(targets) == len(weights), "a target for each matrix"
    assert len({one.mask_structure for one in targets}) <= 1, "matrices of different structures"
    return targets


def require_finite(weights: Sequence[Tensor]) -> None:
    """Raise PruningError if a weight is NaN or infinite."""
    if not all_finite(weights):
        raise PruningError("a weight is NaN or infinite, so no mask can be chosen")


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Return True if no entry of tensors of one dtype and device is NaN or infinite.

    The extremes of a tensor with a NaN are NaN. The host waits for the device once.
    """
    extremes = [extreme for tensor in tensors for extreme in torch.aminmax(tensor)]
    return bool(torch.isfinite(torch.stack(extremes)).all())
