"""Losses of logits, a few positions at a time: a vocabulary can be larger than all else together.

At once, the losses of all positions would keep several float32 copies of the logits for the
backward pass. Here it keeps the logits alone, and computes each piece again. Each position is a row
of its own, so the numbers are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

PIECE_VALUES = {"cpu": 2**20, "cuda": 2**24}
"""Logits in a piece. A CPU uses the memory of small pieces again; a GPU wants few launches."""
PIECE_COPIES = 6
"""Float32 copies of a piece at a time, about: both log-softmaxes, products and gradients."""


class RowLosses(ABC):
    """Losses of some rows of logits, each of which depends on its own row alone."""

    @abstractmethod
    def losses(self, rows: Tensor, goals: Tensor) -> Tensor:
        """Return the losses, [rows], of logits [rows, vocab] and goals [rows, ...]."""

    def gradient(self, rows: Tensor, goals: Tensor, given: Tensor) -> Tensor:
        """Return the gradient of the logits, [rows, vocab], for that of the losses, [rows]."""
        return gradient_through(lambda leaf: self.losses(leaf, goals), rows, given)


def gradient_through(function: Callable[[Tensor], Tensor], rows: Tensor, given: Tensor) -> Tensor:
    """Return the gradient by `rows`, given that by `function(rows)`."""
    with torch.enable_grad():
        leaf = rows.detach().requires_grad_()
        made = function(leaf)
    return torch.autograd.grad(made, leaf, given)[0]


def losses_in_pieces(function: RowLosses, logits: Tensor, goals: Tensor) -> Tensor:
    """Return the losses of all positions, [batch, seq_len].

    Args:
        function: the losses of some rows.
        logits: [batch, seq_len, vocab]; gradients reach them.
        goals: [batch, seq_len, ...], without gradients.
    """
    losses: Any = InPieces.apply(logits.flatten(0, 1), goals.flatten(0, 1), function)
    return losses.view(logits.shape[:2])


def piece_bytes(device_type: str) -> int:
    """Return the bytes that a piece takes while it is computed, about."""
    return 4 * PIECE_COPIES * PIECE_VALUES[device_type]


class InPieces(torch.autograd.Function):
    """Losses of rows, whose backward pass runs them again piece by piece."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, goals: Tensor, function: RowLosses) -> Tensor:
        """Return the losses, [rows]."""
        ctx.save_for_backward(logits, goals)
        ctx.function = function
        return torch.cat([function.losses(*piece) for piece in pieces_of(logits, goals)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the logits, [rows, vocab]."""
        logits, goals = ctx.saved_tensors
        grad = torch.empty_like(logits)
        for rows, wanted, given, into in pieces_of(logits, goals, grads[0], grad):
            into.copy_(ctx.function.gradient(rows, wanted, given))
        return grad, None, None


def pieces_of(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield some rows of all tensors at a time, as many as a piece of the logits has."""
    values = PIECE_VALUES.get(logits.device.type, PIECE_VALUES["cuda"])
    size = max(1, values // logits.shape[-1])
    return zip(*(each.split(size) for each in (logits, *others)), strict=True)
