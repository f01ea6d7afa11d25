"""Relative error of a pruned layer's output: one recorded figure a matrix; nothing depends on it.

Place in the flow: `sequential.py` asks for it after a matrix is solved, while the statistic of its
input is still there. With `H = 2/n sum(x xT)` and D = original minus new weights, `tr(D H DT)` is
the squared change of the outputs over the calibration tokens and `tr(W H WT)` their squared size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.pruners.hessian import Hessian, InputNorms
from core.pruners.pruner import Statistic
from core.ranks import ALONE, Ranks

# Columns of a product. Only block rows up to the diagonal are computed, so narrower blocks compute
# less. Still narrower ones cost more in calls than they save.
BLOCK = 256
FEWEST_ROWS = 32
SHARE = 0.01
"""Limit of its operations, as a share of those that gathered H and ran the layer."""


def relative_error(
    statistic: Statistic | None, before: Tensor, after: Tensor, ranks: Ranks = ALONE
) -> float | None:
    """Return `tr(D H DT) / tr(W H WT)` of a matrix [rows, cols]: 0 unchanged, 1 like no layer.

    It is exact, except after a short calibration, where the products would take a noticeable part
    of the time. It then looks at every few rows (`row_step`). Wanda knows only the norms of its
    inputs, so there H is diagonal: such values assume uncorrelated inputs and compare only with
    each other. Several ranks that have the same statistic look at some of the rows each.

    Returns:
        None without a statistic, and for a matrix whose outputs are all zero.
    """
    if isinstance(statistic, InputNorms):
        old, new = (share(m, 1, ranks) for m in (before, after))
        change, size = ((m.square() @ statistic.squares).sum() for m in (old - new, old))
    elif isinstance(statistic, Hessian):
        rows, cols = before.shape
        step = row_step(rows, cols, int(statistic.num_tokens.item()))
        old, new = (share(m, step, ranks) for m in (before, after))
        # Undamped, and without the factor 2/n, which cancels.
        change, size = (quadratic(statistic.products, m) for m in (old - new, old))
    else:
        return None
    change, size = ranks.sum_(torch.stack((change, size)))
    # The host waits for the device once.
    error, size = torch.stack((change / size, size)).tolist()
    return error if size > 0 and math.isfinite(error) else None


def share(matrix: Tensor, step: int, ranks: Ranks) -> Tensor:
    """Return this rank's share of every `step`-th row, float32."""
    return matrix[::step].tensor_split(ranks.size)[ranks.rank].detach().float()


def row_step(rows: int, cols: int, num_tokens: int) -> int:
    """Return the step between rows that are looked at: 1 for 128 windows of 2048 tokens.

    H took num_tokens cols^2 / 2 multiplications, and two forwards took 2 num_tokens rows cols. A
    row here takes about cols^2. The step is odd, so that the rows do not fall on the same place of
    every attention head.
    """
    took = num_tokens * (cols**2 / 2 + 2 * rows * cols)
    allowed = max(FEWEST_ROWS, int(SHARE * took / cols**2))
    step = -(-rows // allowed)
    return step if step % 2 else step + 1


def quadratic(products: Tensor, matrix: Tensor) -> Tensor:
    """Return the scalar `tr(M P MT)`; of the symmetric P block rows up to the diagonal are read."""
    total = torch.zeros((), dtype=torch.float64, device=matrix.device)
    for start in range(0, len(products), BLOCK):
        end = min(start + BLOCK, len(products))
        block = matrix[:, start:end]
        # Blocks below the diagonal count twice, also for their mirror images above it.
        image = block @ products[start:end, start:end]
        if start:
            image.addmm_(matrix[:, :start], products[start:end, :start].T, alpha=2)
        total += torch.dot(image.flatten(), block.flatten()).double()
    return total
