"""Masked low-rank updates: W + 2 M * (B A), merged without filling a zero (PERP, arXiv 2312.15230).

The mask is where the weight is not zero, taken anew in each pass: it needs no memory, and follows
the weight through FSDP2's gathering. A survivor that happens to be zero stays zero, as in the
paper's code. The merged matrix is made again in the backward pass instead of being kept.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.parallel import compute_device, local, shard_like

SCALE = 2.0
"""Of the product; the paper's alpha of 32 at rank 16."""
A, B = "lora_A", "lora_B"


class MaskedLowRank(torch.autograd.Function):
    """x (W + SCALE M * (B A)) transposed, for a W that does not train."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype):
        """Product of inputs [..., cols] with the merged matrix [rows, cols]."""
        x = x.to(dtype)
        ctx.save_for_backward(x, weight, a, b)
        ctx.dtype = dtype
        return functional.linear(x, merged(weight, a, b).to(dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        """Gradients of inputs and factors."""
        (grad,) = grads
        x, weight, a, b = ctx.saved_tensors
        grad_x = grad @ merged(weight, a, b).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        product = (grad.flatten(0, -2).T @ x.flatten(0, -2)).to(a.dtype)
        product.mul_(weight != 0).mul_(SCALE)
        return grad_x, None, b.T @ product, product @ a.T, None


def merged(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """W + SCALE M * (B A), exactly zero wherever W is; `b` may hold some of the rows, as W."""
    return weight + (b @ a).mul_(weight != 0).mul_(SCALE)


def attach_(linear: nn.Linear, name: str, rank: int, dtype: torch.dtype) -> list[nn.Parameter]:
    """Gives a linear its factors, A random and B zero, so that at first nothing changes.

    The same factors on every rank, drawn from the name; they are not sharded.
    """
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(seed)
    device = compute_device(linear.weight)
    bound = linear.in_features**-0.5
    a = torch.empty(rank, linear.in_features).uniform_(-bound, bound, generator=generator)
    linear.register_parameter(A, nn.Parameter(a.to(device)))
    linear.register_parameter(B, nn.Parameter(torch.zeros(linear.out_features, rank).to(device)))
    linear.forward = functools.partial(forward, linear, dtype)  # pyright: ignore
    return factors(linear)


def factors(linear: nn.Linear) -> list[nn.Parameter]:
    """A [rank, cols] and B [rows, rank]."""
    return [linear.get_parameter(A), linear.get_parameter(B)]


def forward(linear: nn.Linear, dtype: torch.dtype, x: Tensor) -> Tensor:
    """Stands in for the linear's own forward; the factors' product is never rounded."""
    with torch.autocast(x.device.type, enabled=False):
        out = MaskedLowRank.apply(x, linear.weight, *factors(linear), dtype)
        assert isinstance(out, Tensor)
        return out if linear.bias is None else out + linear.bias.to(dtype)


@torch.no_grad()
def merge_(linear: nn.Linear) -> None:
    """Writes the merged matrix into this rank's part of the weight."""
    a, b = factors(linear)
    weight = local(linear.weight)
    weight.copy_(merged(weight, a.to(weight.device), shard_like(b, linear.weight)))


def detach_(linear: nn.Linear) -> None:
    """Takes the factors away again; harmless where there are none."""
    linear.__dict__.pop("forward", None)
    for name in (A, B):
        linear._parameters.pop(name, None)
