"""Conjugate gradients for the surviving weights of many rows at once (ALPS, algorithm 2).

ALPS ends with them, and refinement takes a few steps before and after its swaps.

All rows have the same H, so a step of a chunk of rows is one matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.accelerator import is_accelerator

# Most conjugate-gradient steps; a row stops when its residual fell by this factor. After fewer,
# weights depend on the order of sums: with 30, stacked and single rows differ by 7e-4.
CG_STEPS, CG_TOLERANCE = 40, 1e-5
# Weights of the rows that step together. On a CPU few enough to stay in cache between operations
# and enough for products at full speed; on an accelerator all that a buffer of 256 MB holds.
CG_CHUNK_CPU, CG_CHUNK_ACCELERATOR = 2**18, 2**26
# Steps between two looks at whether a row is left. Steps of rows that are done change nothing.
CG_LOOK_CPU, CG_LOOK_ACCELERATOR = 1, 15


def descend_(
    kept: Tensor, goal: Tensor, free: Tensor, hessian: Tensor, steps: int = CG_STEPS
) -> None:
    """Move the `free` entries of rows `kept` to the least `tr(D H DT)`, in place, by chunks.

    Args:
        kept: weights at the start [rows, cols].
        goal: original weights; D is `goal` minus weights.
        free: [rows, cols] bool.
        hessian: H, [cols, cols].
        steps: the most steps of a row.
    """
    chunk = CG_CHUNK_ACCELERATOR if is_accelerator(goal.device) else CG_CHUNK_CPU
    size = max(1, chunk // goal.shape[1])
    for part, wanted, moving in zip(kept.split(size), goal.split(size), free.split(size)):
        descend_together_(part, wanted - part, moving.to(goal.dtype), hessian, steps)


def descend_together_(
    kept: Tensor, delta: Tensor, free: Tensor, hessian: Tensor, steps: int
) -> None:
    """Move the `free` entries (1, else 0) of rows `kept` to the least `tr(D H DT)`, in place.

    Args:
        kept: weights [rows, cols].
        delta: D at the start, original minus `kept`.
        free: [rows, cols] of the same dtype.
        hessian: H, [cols, cols].
        steps: the most steps of a row.
    """
    residual = (delta @ hessian).mul_(free)
    direction = residual.clone()
    square = torch.linalg.vecdot(residual, residual)[:, None]
    enough = square * CG_TOLERANCE**2
    product = torch.empty_like(kept)
    look = CG_LOOK_ACCELERATOR if is_accelerator(kept.device) else CG_LOOK_CPU
    for step in range(steps):
        torch.mm(direction, hessian, out=product)
        # A direction is zero where no entry is free, so its curvature needs no masked product.
        curvature = torch.linalg.vecdot(direction, product)[:, None]
        # A row that is solved, or flat within rounding, takes no more steps.
        going = (square > enough) & (curvature > 0)
        if step % look == look - 1 and not going.any():
            break
        length = torch.where(going, square / curvature, 0.0)
        kept.addcmul_(length, direction)
        residual.addcmul_(product.mul_(free), length, value=-1)
        previous, square = square, torch.linalg.vecdot(residual, residual)[:, None]
        ratio = torch.where(going, square / previous, 0.0)
        torch.addcmul(residual, direction, ratio, out=direction)
