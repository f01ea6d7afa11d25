"""Conjugate gradients for the surviving weights of many rows at once (ALPS, algorithm 2).

ALPS ends with them, and refinement takes a few steps before and after its swaps.

All rows have the same H, so a step of a chunk of rows is one matrix product.
"""

from __future__ import annotations

from typing import NamedTuple

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
        first_rows(part, wanted - part, moving.to(goal.dtype), hessian).descend_(hessian, steps)


class Rows(NamedTuple):
    """Rows that step together."""

    kept: Tensor
    """Weights [rows, cols]."""
    free: Tensor
    """1 where a weight may move, else 0."""
    residual: Tensor
    """Minus half of the gradient in the free entries, else 0."""
    direction: Tensor
    """Direction of the next step, 0 where no weight may move."""
    square: Tensor
    """Square of the residual's length, [rows, 1]."""
    enough: Tensor
    """A row with a square of at most this is solved."""

    def descend_(self, hessian: Tensor, steps: int) -> None:
        """Take up to `steps` steps, in place; when half of the rows are solved the others go on."""
        kept, free, residual, direction, square, enough = self
        product = torch.empty_like(kept)
        look = CG_LOOK_ACCELERATOR if is_accelerator(kept.device) else CG_LOOK_CPU
        for step in range(steps):
            if step % look == look - 1:
                left = (square > enough).squeeze(1).nonzero().squeeze(1)
                if 2 * len(left) <= len(kept):
                    self._replace(square=square).descend_some_(left, hessian, steps - step)
                    return
            torch.mm(direction, hessian, out=product)
            # No masked product is needed: the direction is zero where no entry is free.
            curvature = torch.linalg.vecdot(direction, product)[:, None]
            # A row that is solved, or flat within rounding, takes no more steps.
            going = (square > enough) & (curvature > 0)
            length = torch.where(going, square / curvature, 0.0)
            kept.addcmul_(length, direction)
            residual.addcmul_(product.mul_(free), length, value=-1)
            previous, square = square, torch.linalg.vecdot(residual, residual)[:, None]
            ratio = torch.where(going, square / previous, 0.0)
            torch.addcmul(residual, direction, ratio, out=direction)

    def descend_some_(self, chosen: Tensor, hessian: Tensor, steps: int) -> None:
        """Take up to `steps` steps of the rows with these indices alone, in place."""
        if len(chosen):
            some = Rows(*(each[chosen] for each in self))
            some.descend_(hessian, steps)
            self.kept[chosen] = some.kept


def first_rows(kept: Tensor, delta: Tensor, free: Tensor, hessian: Tensor) -> Rows:
    """Return rows before their first step.

    Args:
        kept: weights [rows, cols].
        delta: D, original minus `kept`.
        free: [rows, cols] of the same dtype, 1 where a weight may move, else 0.
        hessian: H, [cols, cols].
    """
    residual = (delta @ hessian).mul_(free)
    square = torch.linalg.vecdot(residual, residual)[:, None]
    return Rows(kept, free, residual, residual.clone(), square, square * CG_TOLERANCE**2)
