"""The matrices that a module holds: one in a linear layer, two or three for each expert of a layer.

transformers 5 holds all experts of a layer in parameters of three dimensions, [experts, out, in] or
[experts, in, out]. The gate and the up-projection of an expert, which read the same input, lie side
by side in one of them. They count as two matrices, as in the files of most models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from core.models.facts import DOWN, GATE, UP

KINDS = (nn.Linear, Conv1D)
"""Modules that hold one matrix: [out, in], or [in, out] for `Conv1D`."""
ROUTERS = ("router", "gate", "shared_expert_gate")
"""Names of modules that choose experts: small, and each weight decides much."""


@dataclass(frozen=True)
class Piece:
    """The place of a matrix among the parameters of its module."""

    leaf: str = "weight"
    """Name of the parameter."""
    expert: int | None = None
    """Index in the first dimension of a parameter that holds all experts; else None."""
    outputs: range | None = None
    """The outputs of the matrix, where an expert has two matrices in one parameter; else None."""
    transposed: bool = False
    """True if the parameter has inputs before outputs."""

    def is_in(self, experts: slice) -> bool:
        """Return True if the expert is one of these."""
        return self.expert is not None and experts.start <= self.expert < experts.stop

    def of(self, matrix: Tensor) -> Tensor:
        """Return the outputs of this piece in a matrix [rows, cols] of an expert, as a view."""
        if self.outputs is None:
            return matrix
        return matrix[self.outputs.start : self.outputs.stop : self.outputs.step]


def pieces_of(module: nn.Module) -> dict[str, Piece]:
    """Return the matrices of a module by the end of their names; none if it holds none."""
    if isinstance(module, KINDS):
        return {"": Piece(transposed=isinstance(module, Conv1D))}
    if not is_experts(module):
        return {}
    down, turned = module.get_parameter(DOWN), bool(module.is_transposed)
    inputs = {UP: Piece(UP, transposed=turned)}
    if module.has_gate:
        middle = down.shape[-2 if turned else -1]
        sides = range(0, middle), range(middle, 2 * middle)
        if not module.is_concatenated:
            sides = range(0, 2 * middle, 2), range(1, 2 * middle, 2)
        inputs = {
            name: Piece("gate_up_proj", outputs=side, transposed=turned)
            for name, side in zip((GATE, UP), sides, strict=True)
        }
    return {
        f"{expert}.{name}": Piece(one.leaf, expert, one.outputs, turned)
        for expert in range(len(down))
        for name, one in (*inputs.items(), (DOWN, Piece(DOWN)))
    }


def is_experts(module: nn.Module) -> bool:
    """Return True for all experts of a layer, in the form that most of transformers' models share.

    Its marks are set by `use_experts_implementation`.
    """
    down = module._parameters.get(DOWN)
    leaf = "gate_up_proj" if getattr(module, "has_gate", True) else UP
    marks = all(hasattr(module, mark) for mark in ("is_transposed", "is_concatenated", "has_gate"))
    return marks and down is not None and down.dim() == 3 and leaf in module._parameters


def holds_experts_otherwise(module: nn.Module) -> bool:
    """Return True for experts whose matrices nothing here finds."""
    in_three = any(p is not None and p.dim() == 3 for p in module._parameters.values())
    named = type(module).__name__.endswith(("Experts", "ExpertGLU"))
    return named and not is_experts(module) and (in_three or not list(module.children()))


def is_router(name: str, module: nn.Module) -> bool:
    """Return True for a module that chooses experts by a matrix of its own, [experts, in]."""
    weight = module._parameters.get("weight")
    named = type(module).__name__.endswith("Router") or name.rpartition(".")[2] in ROUTERS
    return named and not pieces_of(module) and weight is not None and weight.dim() == 2


def named_pieces(block: nn.Module) -> Iterator[tuple[str, nn.Module, Piece]]:
    """Yield the name within a block, the module and the piece of each matrix, in module order."""
    for name, module in block.named_modules():
        pieces = {"": Piece()} if is_router(name, module) else pieces_of(module)
        for end, piece in pieces.items():
            yield f"{name}.{end}" if end else name, module, piece
