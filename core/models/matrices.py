"""One prunable matrix of a model, as all code outside this package sees it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from core.parallel import shard_like, write_

Product = Callable[[Tensor, Tensor], Tensor]
"""Takes inputs x [..., cols] and the weight W [rows, cols] and replaces `x W^T` [..., rows]."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight [rows, cols] that multiplies inputs of width `cols`.

    Here it is the weight of one `nn.Linear`. A family that stores its matrices in another way
    (several in one tensor, transposed) adds a class with the same members.
    """

    name: str
    """Qualified name in the model; masks and errors are stored under it."""
    block: int
    """Index of the decoder block that it belongs to."""
    linear: nn.Linear
    """The module that holds the weight. Only this package uses it."""

    @property
    def rows(self) -> int:
        """Number of outputs."""
        return self.linear.out_features

    @property
    def cols(self) -> int:
        """Number of inputs."""
        return self.linear.in_features

    @property
    def numel(self) -> int:
        """Number of weights."""
        return self.rows * self.cols

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that holds the weight, for optimizers."""
        return self.linear.get_parameter("weight")

    def read(self) -> Tensor:
        """Return the weight [rows, cols] as it is now: whole, or a DTensor where FSDP2 shards it.

        It is not a copy.
        """
        return self.parameter.detach()

    def write_(self, full: Tensor) -> None:
        """Overwrite the weight with a full matrix [rows, cols] that every rank holds."""
        write_(self.parameter, full)

    def cut(self, full: Tensor) -> Tensor:
        """Return this rank's rows of a full matrix [rows, any width], cut like the weight."""
        return shard_like(full.to(self.parameter.device), self.parameter)

    def observe(self, callback: Callable[[Tensor], None]) -> RemovableHandle:
        """Call `callback` with each input [..., cols] before it is multiplied."""

        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            callback(inputs[0].detach())

        return self.linear.register_forward_pre_hook(hook)

    def replace_product_(self, product: Product, parameters: dict[str, nn.Parameter]) -> None:
        """Compute the product by `product` and register its parameters beside the weight.

        The bias, where there is one, is still added.
        """
        for name, parameter in parameters.items():
            self.linear.register_parameter(name, parameter)
        self.linear.forward = functools.partial(forward, self.linear, product)  # pyright: ignore

    def restore_product_(self, names: Iterable[str]) -> None:
        """Undo `replace_product_`, whose parameters had these names; harmless without it."""
        self.linear.__dict__.pop("forward", None)
        for name in names:
            self.linear._parameters.pop(name, None)


def forward(linear: nn.Linear, product: Product, x: Tensor) -> Tensor:
    """Return the output of a linear layer whose product is computed by `product`."""
    out = product(x, linear.weight)
    return out if linear.bias is None else out + linear.bias.to(out.dtype)
