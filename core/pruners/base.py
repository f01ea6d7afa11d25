"""The contract every pruner keeps: statistics of a layer's inputs in, masks and weights out.

Place in the flow: `sequential.py` runs a block on calibration windows, feeds each layer's inputs to
a `Statistic` (one for all matrices that read the same input), sums the statistics over ranks and
hands them with the matrices to `Pruner.prune`.
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
from core.targets import Target


class PruningError(ArithmeticError):
    """A solve that cannot go on; the message is one line and names what to try."""


class Statistic(ABC):
    """A sum over calibration tokens of one layer input, `in_features` wide.

    Statistics of disjoint token sets add up: ranks sum `tensors()` element by element.
    """

    num_tokens: Tensor
    """Tokens seen, a float64 scalar so that it reduces like the rest."""

    @abstractmethod
    def __init__(self, in_features: int, device: torch.device) -> None: ...

    @abstractmethod
    def update(self, inputs: Tensor) -> None:
        """Adds inputs of shape [tokens, in_features], any float dtype."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """The tensors that a sum over ranks merges in place, `num_tokens` among them."""

    def merge_(self, other: Self) -> None:
        """Adds another statistic of the same input, gathered on other tokens."""
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine.add_(theirs)

    def require_finite(self) -> None:
        """Raises PruningError when no token was seen or an input was NaN or infinite."""
        if self.num_tokens.item() == 0:
            raise PruningError("no calibration token reached this layer")
        for tensor in self.tensors():
            if not torch.isfinite(tensor).all():
                raise PruningError("a calibration input is NaN or infinite; try --dtype float32")


@dataclass(frozen=True)
class Pruned:
    """One matrix after pruning."""

    weight: Tensor
    """[rows, cols] in the dtype it came in, exactly zero where pruned."""
    mask: Tensor
    """[rows, cols] bool, True = the weight survives."""
    grid: Grid | None = None
    """Where the survivors were rounded to, None where they were not."""
    fell_back: bool = False
    """Whether ALPS ended above SparseGPT's error here, so that its support is SparseGPT's."""


@dataclass(frozen=True)
class Solution:
    """Matrices that read one input, pruned together, and what the solver had to do."""

    matrices: list[Pruned]
    dampening_frac: float | None = None
    """Damping that the factor needed; None where the method has none."""


@dataclass(frozen=True)
class Pruner(ABC):
    """A method. Subclasses are final and stateless; numbers depend on the arguments alone.

    Callers call `prune`, which checks what every method needs checked; a method says how it prunes
    in `prune_checked`.
    """

    config: PruneConfig

    facts: ClassVar[Method]
    """Name, version and the settings read, from `core/methods.py`."""
    statistic: ClassVar[type[Statistic] | None] = None
    """Statistic that the method needs of its inputs; `facts` names the same one."""

    @final
    def prune(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        target: Target,
        masks: Sequence[Tensor] | None = None,
    ) -> Solution:
        """Prunes matrices that share one input.

        Args:
            weights: matrices [rows_i, cols], not modified.
            statistic: the merged statistic of their input, None if the method needs none.
            target: sparsity or N:M structure. Counts are exact: `round(s * n)` of a matrix of n
                weights; Wanda with a uniform allocation prunes `round(s * cols)` of each row.
            masks: earlier masks of the branch; what they pruned stays pruned.

        Returns:
            New weights and masks, in the order of `weights`.

        Raises:
            PruningError: non-finite weights or inputs, or no positive definite Hessian.
        """
        require_finite(weights)
        if self.statistic is not None:
            assert isinstance(statistic, self.statistic)
            statistic.require_finite()
        return self.prune_checked(weights, statistic, target, masks)

    def solve_operations(self, rows: Sequence[int], cols: int) -> float:
        """Operations of the products that solve matrices of one input, for estimates.

        Args:
            rows: of each matrix.
            cols: of all of them, the width of the input; its statistic is not counted.
        """
        return 0.0

    @abstractmethod
    def prune_checked(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        target: Target,
        masks: Sequence[Tensor] | None,
    ) -> Solution:
        """What `prune` does, on finite weights and a finite statistic of the declared type."""


def require_finite(weights: Sequence[Tensor]) -> None:
    """Raises PruningError if a weight is NaN or infinite."""
    for weight in weights:
        if not torch.isfinite(weight).all():
            raise PruningError("a weight is NaN or infinite, so no mask can be chosen")
