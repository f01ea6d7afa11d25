"""Wanda: weight times input norm, compared within each row (arXiv 2306.11695)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from core.methods import METHODS, Method
from core.pruners.hessian import InputNorms
from core.pruners.masks import choose
from core.pruners.pruner import Pruned, Pruner, Solution, Statistic
from core.ranks import Ranks
from core.split.costs import OPERATIONS_OF_A_CHOICE, Work
from core.targets import Target


@final
@dataclass(frozen=True)
class Wanda(Pruner):
    """Score `|w_ij| * ||x_j||`; each row prunes `round(s * cols)`; survivors keep their value."""

    facts: ClassVar[Method] = METHODS["wanda"]
    statistic: ClassVar[type[Statistic] | None] = InputNorms

    def work(self, rows: Sequence[int], cols: int) -> Work:
        """Return sorting within rows; there are no products."""
        by_row = OPERATIONS_OF_A_CHOICE * sum(rows) * cols
        return Work(tuple(rows), cols, by_row, selections=0)

    def prune_checked(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        targets: Sequence[Target],
        masks: Sequence[Tensor] | None,
        ranks: Ranks,
    ) -> Solution:
        """Prune each matrix row by row; weights of inputs that were always zero go first."""
        assert isinstance(statistic, InputNorms)
        rms = statistic.rms()
        # Targets that differ between matrices must add up to the exact count of the whole model.
        allocated = self.config.allocation != "uniform"
        pruned = []
        for i, weight in enumerate(weights):
            # A weight of a dead input scores below a weight that only happens to be zero.
            scores = (weight.abs().float() * rms).masked_fill_(rms == 0, -1.0)
            earlier = masks[i] if masks else None
            mask = choose(scores, targets[i], earlier, self.facts.by_row, allocated, ranks)
            pruned.append(Pruned(weight.masked_fill(~mask, 0), mask))
        return Solution(pruned)
