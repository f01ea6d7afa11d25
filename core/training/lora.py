"""Masked low-rank updates: W + 2 M * (B A), merged without filling a zero (PERP, arXiv 2312.15230).

The mask is where the weight is not zero. It is taken anew in each pass: this needs no memory, and
it follows the weight when FSDP2 gathers it. A survivor that happens to be zero stays zero, as in
the paper's code. The backward pass computes the merged matrix again instead of keeping it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.models.matrices import Matrix
from core.parallel import compute_device

SCALE = 2.0
"""Factor of the product; the paper's alpha of 32 at rank 16."""
A, B = "lora_A", "lora_B"


class MaskedLowRank(torch.autograd.Function):
    """x (W + SCALE M * (B A)) transposed, for a W that does not train."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype):
        """Return the product of inputs [..., cols] with the merged matrix [rows, cols]."""
        x = x.to(dtype)
        ctx.save_for_backward(x, weight, a, b)
        ctx.dtype = dtype
        return functional.linear(x, merged(weight, a, b).to(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        """Return the gradients of inputs and factors."""
        (grad,) = grads
        x, weight, a, b = ctx.saved_tensors
        grad_x = grad @ merged(weight, a, b).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        product = (grad.flatten(0, -2).T @ x.flatten(0, -2)).to(a.dtype)
        product.mul_(weight != 0).mul_(SCALE)
        return grad_x, None, b.T @ product, product @ a.T, None


def merged(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return W + SCALE M * (B A), exactly zero where W is. W and B may be cut to the same rows."""
    return weight + (b @ a).mul_(weight != 0).mul_(SCALE)


@dataclass(frozen=True)
class LowRankUpdate:
    """The trainable update of one matrix. Its factors are whole on every rank."""

    matrix: Matrix
    a: nn.Parameter
    """[rank, cols]."""
    b: nn.Parameter
    """[rows, rank]."""
    dtype: torch.dtype
    """Dtype of products with inputs."""

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the product of inputs [..., cols] with the merged matrix."""
        # The product of the factors is never rounded.
        with torch.autocast(x.device.type, enabled=False):
            out = MaskedLowRank.apply(x, weight, self.a, self.b, self.dtype)
        assert isinstance(out, Tensor)
        return out

    @torch.no_grad()
    def merge_(self) -> None:
        """Write the merged matrix into this rank's part of the weight."""
        weight = self.matrix.part()
        b, a = self.matrix.factors_of_part(self.b.to(weight.device), self.a.to(weight.device))
        weight.copy_(merged(weight, a, b))

    def detach_(self) -> None:
        """Take the update away again."""
        self.matrix.restore_product_((A, B))


def attach_(matrix: Matrix, rank: int, dtype: torch.dtype) -> LowRankUpdate:
    """Give a matrix an update, A random and B zero, so that at first nothing changes.

    A is drawn from the matrix's name, so it is the same on every rank.
    """
    seed = int.from_bytes(hashlib.sha256(matrix.name.encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(seed)
    device, bound = compute_device(matrix.parameter), matrix.cols**-0.5
    a = torch.empty(rank, matrix.cols).uniform_(-bound, bound, generator=generator)
    b = torch.zeros(matrix.rows, rank)
    update = LowRankUpdate(matrix, nn.Parameter(a.to(device)), nn.Parameter(b.to(device)), dtype)
    matrix.replace_product_(update.product, {A: update.a, B: update.b})
    return update
