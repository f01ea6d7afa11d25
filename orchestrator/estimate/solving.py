"""Cost of the solvers of a prune stage: products with Hessians, calls of columns, messages, swaps.

Each pruner counts its own products. All figures here are of one block.
"""

from __future__ import annotations

from dataclasses import replace

from core.pruners.hessian import Hessian
from core.pruners.pruner import Pruner
from core.pruners.refine import Refined
from core.split.costs import MACHINES
from core.split.plan import block_seconds
from orchestrator.estimate.experts import Groups, observed_products, solved_groups
from orchestrator.plan.inputs import CalibrationText

SWAP_SECONDS = {
    ("cpu", True): 7e-9,
    ("cpu", False): 3e-9,
    ("cuda", True): 7e-11,
    ("cuda", False): 3e-11,
}
"""Seconds of refinement for rows cols^2 of a matrix, by device and if survivors keep their values.

Measured on a CPU, 256 to 3072 columns at 0.5, 0.7 and 2:4, within a factor of 2. For a GPU they are
scaled by the speed of memory, not measured.
"""


def solve_operations(groups: Groups, pruner: Pruner, text: CalibrationText) -> float:
    """Return half of X XT for each input, and the method's products; none without a Hessian."""
    if pruner.statistic is not Hessian:
        return 0.0
    solves = solved_groups(groups, text.experts)
    works = [pruner.work([one.rows for one in group], group[0].cols) for group in solves]
    return observed_products(solves, text) + sum(work.operations for work in works)


def solve_seconds(
    groups: Groups, pruner: Pruner, device: str, rate: float, num_workers: int, width: int
) -> float:
    """Return the seconds of solves beside their products, which workers would share evenly.

    Args:
        groups: the matrices of one block.
        pruner: the method.
        device: `cpu` or `cuda`.
        rate: float32 operations a second of a worker.
        num_workers: workers that share the solves of a block, as `core/split/plan.py` plans.
        width: bytes of a weight, which the workers send each other.
    """
    if pruner.statistic is not Hessian:
        return 0.0
    works = [pruner.work([one.rows for one in group], group[0].cols) for group in groups]
    machine = replace(MACHINES[device], operations=rate)
    products = sum(work.operations for work in works) / rate
    seconds = block_seconds(works, num_workers, machine, width) - products / num_workers
    if isinstance(pruner, Refined):
        searched = sum(one.rows * one.cols**2 for group in groups for one in group) / num_workers
        seconds += SWAP_SECONDS[device, pruner.method.facts.keeps_values] * searched
    return seconds
