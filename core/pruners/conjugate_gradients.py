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
# Steps between two looks at which rows are left. Steps of rows that are done change nothing.
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

    When half of the rows are solved, the others go on without them.

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
    # The rows that still step, and their places in `kept`.
    some, places = kept, torch.arange(len(kept), device=kept.device)
    for step in range(steps):
        if step % look == look - 1:
            left = (square > enough).squeeze(1).nonzero().squeeze(1)
            if 2 * len(left) <= len(some):
                if some is not kept:
                    kept[places] = some
                states = some, free, residual, direction, square, enough
                some, free, residual, direction, square, enough = (each[left] for each in states)
                product, places = torch.empty_like(some), places[left]
            if not len(left):
                return
        torch.mm(direction, hessian, out=product)
        # No masked product is needed: the direction is zero where no entry is free.
        curvature = torch.linalg.vecdot(direction, product)[:, None]
        # A solved row takes no more steps. One that is flat within rounding waits, and begins anew
        # in the direction of its residual.
        going = (square > enough) & (curvature > 0)
        length = torch.where(going, square / curvature, 0.0)
        some.addcmul_(length, direction)
        residual.addcmul_(product.mul_(free), length, value=-1)
        previous, square = square, torch.linalg.vecdot(residual, residual)[:, None]
        ratio = torch.where(going, square / previous, 0.0)
        torch.addcmul(residual, direction, ratio, out=direction)
    if some is not kept:
        kept[places] = some
