"""Magnitude pruning: the smallest absolute weights of each matrix go (layer-wise)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from core.methods import METHODS, Method
from core.pruners.masks import choose
from core.pruners.pruner import Pruned, Pruner, Solution, Statistic
from core.ranks import Ranks
from core.split.costs import OPERATIONS_OF_A_CHOICE, Work
from core.targets import Target


@final
@dataclass(frozen=True)
class Magnitude(Pruner):
    """Score `|w|`, compared within a whole matrix; survivors keep their value. No calibration."""

    facts: ClassVar[Method] = METHODS["magnitude"]

    def work(self, rows: Sequence[int], cols: int) -> Work:
        """Return one choice for each matrix; there are no products."""
        by_row = OPERATIONS_OF_A_CHOICE * sum(rows) * cols
        return Work(tuple(rows), cols, by_row, selections=1)

    def prune_checked(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        targets: Sequence[Target],
        masks: Sequence[Tensor] | None,
        ranks: Ranks,
    ) -> Solution:
        """Prune each matrix by itself; `statistic` is not read."""
        pruned = []
        for i, weight in enumerate(weights):
            mask = choose(
                weight.abs().float(), targets[i], masks[i] if masks else None, ranks=ranks
            )
            pruned.append(Pruned(weight.masked_fill(~mask, 0), mask))
        return Solution(pruned)
