"""A copy of one decoder block, whole on every rank, and its two halves: attention and MLP.

The first module of the MLP half that runs gets the hidden states between the halves as its input.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.models.blocks import decoder_blocks, family_of, matrices_of, run_block
from core.models.matrices import Matrix
from core.models.weight_files import meta_model
from core.parallel import whole, write_


class Reached(Exception):  # noqa: N818
    """Raised when the MLP half begins; carries its input out of the block's forward."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@dataclass(frozen=True)
class Half:
    """One half of a block: its parameters, its matrices and its output."""

    name: str
    """`attention` or `mlp`."""
    block: nn.Module
    mlp: tuple[str, ...]
    """Names of the children that make the MLP half."""
    matrices: dict[str, Matrix]
    """Prunable matrices of this half, by their names in the model."""

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of this half."""
        return [
            param
            for name, param in self.block.named_parameters()
            if (name.partition(".")[0] in self.mlp) == (self.name == "mlp")
        ]

    def output(self, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Return the hidden states after this half [batch, seq_len, hidden_size].

        Takes the inputs of the block.
        """
        if self.name == "mlp":
            return run_block(self.block, hidden, kwargs)
        with self.stopping_before_mlp():
            try:
                run_block(self.block, hidden, kwargs)
            except Reached as reached:
                # Between the halves OPT has one row for each token.
                return reached.hidden.view(hidden.shape)
        raise AssertionError("no module of the MLP half ran")

    @contextmanager
    def stopping_before_mlp(self) -> Iterator[None]:
        """Make a forward of the block raise `Reached` as soon as a module of the MLP half runs."""

        def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            raise Reached(inputs[0])

        hooks = [getattr(self.block, name).register_forward_pre_hook(stop) for name in self.mlp]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class PlainBlocks:
    """Copies blocks of a model into ordinary float32 modules that every rank holds in full."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.family = model, family_of(model)
        self.skeleton = meta_model(model.config, torch.float32)

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

    def halves(self, block: nn.Module, index: int) -> tuple[Half, Half]:
        """Return the attention half and the MLP half of the copy of a block."""
        path, mlp = f"{self.family.blocks}.{index}", self.family.mlp_half
        split: tuple[dict[str, Matrix], dict[str, Matrix]] = ({}, {})
        for name, matrix in matrices_of(block, path, index).items():
            child = name.removeprefix(f"{path}.").partition(".")[0]
            split[child in mlp][name] = matrix
        return Half("attention", block, mlp, split[0]), Half("mlp", block, mlp, split[1])
