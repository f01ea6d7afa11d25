"""A copy of one decoder block, whole on every rank, and its two halves: attention and MLP.

The first module of the MLP half that runs gets the hidden states between the halves as its input.
Where no place lies between two halves, the block is one piece.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.models.anatomy import anatomy_of, skeleton_of
from core.models.blocks import decoder_blocks, matrices_of
from core.models.calls import Call, run_block
from core.models.matrices import Matrix
from core.parallel import whole, write_


class Reached(Exception):  # noqa: N818
    """Raised when the MLP half begins; carries its input out of the block's forward."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    @classmethod
    def stop(cls, hidden: Tensor) -> None:
        """Raise it."""
        raise cls(hidden)


@dataclass(frozen=True)
class Half:
    """One half of a block, or all of it: its parameters, its matrices and its output."""

    is_last: bool
    """True for the MLP half and for a whole block: its output is that of the block."""
    block: nn.Module
    mlp: tuple[str, ...]
    """Names of the children that make the MLP half; empty for a whole block."""
    matrices: dict[str, Matrix]
    """Prunable matrices of this half, by their names in the model."""

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of this half."""
        return [
            param
            for name, param in self.block.named_parameters()
            if not self.mlp or (name.partition(".")[0] in self.mlp) == self.is_last
        ]

    def output(self, hidden: Tensor, call: Call) -> Tensor:
        """Return the hidden states after this half [batch, seq_len, hidden_size].

        Takes the inputs of the block.
        """
        if self.is_last:
            return run_block(self.block, hidden, call)
        with self.at_mlp(Reached.stop):
            try:
                run_block(self.block, hidden, call)
            except Reached as reached:
                # Between the halves OPT has one row for each token.
                return reached.hidden.view(hidden.shape)
        raise AssertionError("no module of the MLP half ran")

    @contextmanager
    def at_mlp(self, act: Callable[[Tensor], None]) -> Iterator[None]:
        """For this long call `act` with its input whenever a module of the MLP half runs."""

        def reach(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            act(next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)))

        children = [self.block.get_submodule(name) for name in self.mlp]
        hooks = [one.register_forward_pre_hook(reach, with_kwargs=True) for one in children]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class PlainBlocks:
    """Copies blocks of a model into ordinary float32 modules that every rank holds in full."""

    def __init__(self, model: PreTrainedModel, routers: bool = False) -> None:
        """Copy blocks of this model; with `routers`, routers and gates are among the matrices."""
        self.model, self.anatomy, self.routers = model, anatomy_of(model), routers
        self.skeleton = skeleton_of(model, torch.float32)

    @torch.no_grad()
    def take(self, index: int, device: torch.device) -> nn.Module:
        """Return a copy of one block (collective)."""
        source = decoder_blocks(self.model)[index]
        block = copy.deepcopy(decoder_blocks(self.skeleton)[index]).to_empty(device=device)
        for name, param in source.named_parameters():
            block.get_parameter(name).copy_(whole(param))
        for name, buffer in source.named_buffers():
            block.get_buffer(name).copy_(buffer)
        return block.eval()

    def put_(self, index: int, block: nn.Module) -> None:
        """Write the parameters of a copy back into this rank's parts."""
        target = decoder_blocks(self.model)[index]
        for name, param in block.named_parameters():
            write_(target.get_parameter(name), param.detach())

    def num_halves(self, index: int) -> int:
        """Return 2, or 1 for a block that is one piece."""
        return 2 if self.anatomy.blocks[index].mlp_half else 1

    def halves(self, block: nn.Module, index: int) -> tuple[Half, ...]:
        """Return the attention half and the MLP half of the copy of a block, or all of it."""
        path, facts = f"{self.anatomy.path}.{index}", self.anatomy.blocks[index]
        matrices, mlp = matrices_of(block, path, index, facts, self.routers), facts.mlp_half
        if not mlp:
            return (Half(True, block, mlp, matrices),)
        split: tuple[dict[str, Matrix], dict[str, Matrix]] = ({}, {})
        for name, matrix in matrices.items():
            child = name.removeprefix(f"{path}.").partition(".")[0]
            split[child in mlp][name] = matrix
        return Half(False, block, mlp, split[0]), Half(True, block, mlp, split[1])
