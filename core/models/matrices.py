"""One prunable matrix of a model, as all code outside this package sees it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle

from core.models.pieces import Piece
from core.parallel import from_owner, local, rows_of, whole

Product = Callable[[Tensor, Tensor], Tensor]
"""Takes inputs x [..., cols] and the weight W [rows, cols] and replaces `x W^T` [..., rows]."""

Reader = Callable[[], Tensor]
"""Returns a weight [rows, cols], whole or as a DTensor (collective)."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A weight [rows, cols] that multiplies inputs of width `cols`, however it is stored.

    Everything here has the layout [rows, cols] = [out, in]. Only this class knows the layout of the
    parameter. A rank holds some rows of a parameter where FSDP2 shards it.
    """

    name: str
    """Qualified name in the model; masks and errors are stored under it."""
    block: int
    """Index of the decoder block that it belongs to."""
    module: nn.Module
    """The module that holds the weight. Only this package uses it."""
    piece: Piece = Piece()
    """The place of the weight in the module."""

    @property
    def rows(self) -> int:
        """Number of outputs."""
        if self.piece.outputs is not None:
            return len(self.piece.outputs)
        return self.parameter.shape[-1 if self.transposed else -2]

    @property
    def cols(self) -> int:
        """Number of inputs."""
        return self.parameter.shape[-2 if self.transposed else -1]

    @property
    def numel(self) -> int:
        """Number of weights."""
        return self.rows * self.cols

    @property
    def transposed(self) -> bool:
        """True if the parameter has inputs before outputs."""
        return self.piece.transposed

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter that holds the weight, for optimizers. All experts of a layer share one."""
        return self.module.get_parameter(self.piece.leaf)

    @property
    def parameter_name(self) -> str:
        """Qualified name of the parameter."""
        above = self.name if self.piece.expert is None else self.name.rsplit(".", 2)[0]
        return f"{above}.{self.piece.leaf}"

    @property
    def held(self) -> tuple[slice, slice]:
        """The rows and columns of the matrix that this rank holds."""
        rows, everything = rows_of(self.parameter), slice(None)
        if self.piece.expert is not None:
            return (everything if self.piece.is_in(rows) else slice(0)), everything
        return (everything, rows) if self.transposed else (rows, everything)

    def inside(self, tensor: Tensor) -> Tensor:
        """Return this rank's part of the matrix within its part of a tensor like the parameter.

        Writes to it stay.
        """
        return self.within(tensor, rows_of(self.parameter))

    def within(self, tensor: Tensor, rows: slice) -> Tensor:
        """Return the part of the matrix within these rows of a tensor like the parameter."""
        if self.piece.expert is not None:
            if not self.piece.is_in(rows):
                return tensor.new_empty(0, self.cols)
            tensor = tensor[self.piece.expert - rows.start]
        return self.piece.of(self.turned(tensor))

    def turned(self, matrix: Tensor) -> Tensor:
        """Return a matrix [rows, cols] in the layout of the parameter, or the other way round."""
        return matrix.T if self.transposed else matrix

    def read(self) -> Tensor:
        """Return the weight [rows, cols] as it is now: whole, or a DTensor where FSDP2 shards it.

        It is not a copy where the parameter has this layout. An expert's matrix is always whole:
        it is sent to all ranks where FSDP2 shards it (collective).
        """
        return self.reader()()

    def reader(self) -> Reader:
        """Return a function that reads the weight of now later, whatever the module holds then."""
        return functools.partial(self.read_from, self.parameter.detach())

    def read_from(self, parameter: Tensor) -> Tensor:
        """Return what `read` returns, of a parameter that the module has or had."""
        if isinstance(parameter, DTensor) and self.piece.expert is None:
            return self.turned(parameter)
        part = self.within(local(parameter), rows_of(parameter))
        if isinstance(parameter, DTensor):
            return self.gather(part, parameter)
        # Ranks send and receive memory as it lies, and a turned view lies in the other order.
        return part.contiguous()

    def gather(self, part: Tensor, parameter: Tensor | None = None) -> Tensor:
        """Return a full matrix [rows, cols] of which each rank has a part (collective).

        Args:
            part: this rank's part, as `cut` returns it.
            parameter: the parameter by which it is cut; by default that of now.
        """
        parameter = self.parameter.detach() if parameter is None else parameter
        if not isinstance(parameter, DTensor):
            return part.contiguous()
        if self.piece.expert is not None:
            return from_owner(part, (self.rows, self.cols), parameter, self.piece.expert)
        full = torch.zeros_like(parameter, dtype=part.dtype)
        local(full).copy_(self.turned(part))
        return self.turned(whole(full)).contiguous()

    @torch.no_grad()
    def write_(self, full: Tensor) -> None:
        """Overwrite the weight with a full matrix [rows, cols] that every rank holds."""
        self.part().copy_(self.cut(full))

    def cut(self, full: Tensor) -> Tensor:
        """Return this rank's part of a full matrix [rows, cols]."""
        rows, cols = self.held
        return full[rows, cols].to(local(self.parameter).device)

    def part(self) -> Tensor:
        """Return this rank's part of the weight, [rows, cols] of the part. Writes to it stay."""
        return self.inside(local(self.parameter.detach()))

    def factors_of_part(self, b: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of this rank's part of a product `b a`, [rows, k] and [k, cols]."""
        rows, cols = self.held
        return b[rows], a[:, cols]

    def observe(self, callback: Callable[[Tensor], None]) -> RemovableHandle:
        """Call `callback` with each input [..., cols] before it is multiplied."""

        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            callback(inputs[0].detach())

        return self.module.register_forward_pre_hook(hook)

    def replace_product_(self, product: Product, parameters: dict[str, nn.Parameter]) -> None:
        """Compute the product by `product` and register its parameters beside the weight.

        The bias, where there is one, is still added. An expert's product cannot be replaced.
        """
        assert self.piece.expert is None, f"{self.name} is no module of its own"
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
