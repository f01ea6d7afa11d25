"""What the solvers of a prune stage take: products with Hessians, calls of columns, swaps.

The part of `cost.py` that depends on the method; each pruner counts its own products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.config import PruneConfig
from core.pruners import make_pruner
from core.pruners.base import Pruner
from core.pruners.hessian import Hessian
from core.pruners.refine import Refined
from orchestrator.plan.stages import Stage

if TYPE_CHECKING:
    from orchestrator.estimate.model_cost import ModelCost

COLUMN_SECONDS = 60e-6
"""Calls of one column of a SparseGPT solve, which cost this however small the matrix."""
SWAP_SECONDS = {
    ("cpu", True): 7e-9,
    ("cpu", False): 3e-9,
    ("cuda", True): 7e-11,
    ("cuda", False): 3e-11,
}
"""Of refinement, for rows cols^2 of a matrix, by device and whether survivors keep their values.

On a CPU measured, 256 to 3072 columns at 0.5, 0.7 and 2:4 within a factor of 2; on a GPU the same
scaled by the speed of memory, not measured.
"""


def pruner_of(stage: Stage) -> Pruner:
    """Who solves a prune stage, set as the stage says."""
    return make_pruner(stage.method, PruneConfig(**stage.fields.get("settings", {})))


def solve_operations(cost: ModelCost, pruner: Pruner, tokens: int) -> float:
    """Half of X XT for each input, and the method's products; none without a Hessian."""
    if pruner.statistic is not Hessian:
        return 0.0
    return cost.facts.num_blocks * sum(
        group[0].cols ** 2 * tokens
        + pruner.solve_operations([one.rows for one in group], group[0].cols)
        for group in cost.groups()
    )


def solve_seconds(cost: ModelCost, pruner: Pruner) -> float:
    """What a solve takes beside its products."""
    if pruner.statistic is not Hessian:
        return 0.0
    groups = cost.groups()
    seconds = COLUMN_SECONDS * sum(group[0].cols for group in groups)
    if isinstance(pruner, Refined):
        searched = sum(one.rows * one.cols**2 for group in groups for one in group)
        seconds += SWAP_SECONDS[cost.device, pruner.method.facts.keeps_values] * searched
    return cost.facts.num_blocks * seconds
