"""One prunable matrix of a model, as all code outside this package sees it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from core.parallel import local, rows_of, shard_like, write_

Product = Callable[[Tensor, Tensor], Tensor]
"""Takes inputs x [..., cols] and the weight W [rows, cols] and replaces `x W^T` [..., rows]."""

KINDS = (nn.Linear, Conv1D)
"""Modules that hold one matrix: [out, in], or [in, out] for `Conv1D`."""


def sizes_of(module: nn.Module) -> tuple[int, int]:
    """Return rows (outputs) and cols (inputs) of the matrix of a module."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    assert isinstance(module, Conv1D)
    return module.nf, module.nx


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight [rows, cols] that multiplies inputs of width `cols`, however it is stored.

    Everything here has the layout [rows, cols] = [out, in]. Only this class knows the layout of the
    parameter.
    """

    name: str
    """Qualified name in the model; masks and errors are stored under it."""
    block: int
    """Index of the decoder block that it belongs to."""
    module: nn.Module
    """The module that holds the weight. Only this package uses it."""

    @property
    def rows(self) -> int:
        """Number of outputs."""
        return sizes_of(self.module)[0]

    @property
    def cols(self) -> int:
        """Number of inputs."""
        return sizes_of(self.module)[1]

    @property
    def numel(self) -> int:
        """Number of weights."""
        return self.rows * self.cols

    @property
    def transposed(self) -> bool:
        """True if the parameter is [cols, rows]."""
        return isinstance(self.module, Conv1D)

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that holds the weight, for optimizers."""
        return self.module.get_parameter("weight")

    @property
    def parameter_name(self) -> str:
        """Qualified name of the parameter."""
        return f"{self.name}.weight"

    def turned(self, matrix: Tensor) -> Tensor:
        """Return a matrix [rows, cols] in the layout of the parameter, or the other way round."""
        return matrix.T if self.transposed else matrix

    def read(self) -> Tensor:
        """Return the weight [rows, cols] as it is now: whole, or a DTensor where FSDP2 shards it.

        It is not a copy where the parameter has this layout.
        """
        weight = self.turned(self.parameter.detach())
        # Ranks send and receive memory as it lies, and a turned view lies in the other order.
        return weight if isinstance(weight, DTensor) or not self.transposed else weight.contiguous()

    def write_(self, full: Tensor) -> None:
        """Overwrite the weight with a full matrix [rows, cols] that every rank holds."""
        write_(self.parameter, self.turned(full).contiguous())

    def cut(self, full: Tensor) -> Tensor:
        """Return this rank's part of a full matrix [rows, cols], cut and laid out as the weight."""
        return shard_like(self.turned(full.to(self.parameter.device)).contiguous(), self.parameter)

    def part(self) -> Tensor:
        """Return this rank's part of the weight, [rows, cols] of the part. Writes to it stay."""
        return self.turned(local(self.parameter.detach()))

    def factors_of_part(self, b: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of this rank's part of a product `b a`, [rows, k] and [k, cols]."""
        held = rows_of(self.parameter)
        return (b, a[:, held]) if self.transposed else (b[held], a)

    def observe(self, callback: Callable[[Tensor], None]) -> RemovableHandle:
        """Call `callback` with each input [..., cols] before it is multiplied."""

        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            callback(inputs[0].detach())

        return self.module.register_forward_pre_hook(hook)

    def replace_product_(self, product: Product, parameters: dict[str, nn.Parameter]) -> None:
        """Compute the product by `product` and register its parameters beside the weight.

        The bias, where there is one, is still added.
        """
        for name, parameter in parameters.items():
            self.module.register_parameter(name, parameter)
        self.module.forward = functools.partial(forward, self, product)  # pyright: ignore

    def restore_product_(self, names: Iterable[str]) -> None:
        """Undo `replace_product_`, whose parameters had these names; harmless without it."""
        self.module.__dict__.pop("forward", None)
        for name in names:
            self.module._parameters.pop(name, None)


def forward(matrix: Matrix, product: Product, x: Tensor) -> Tensor:
    """Return the output of a layer whose product is computed by `product`."""
    out = product(x, matrix.turned(matrix.parameter))
    bias = matrix.module._parameters.get("bias")
    return out if bias is None else out + bias.to(out.dtype)
