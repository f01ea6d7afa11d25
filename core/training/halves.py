"""A decoder block by itself, whole on every rank, and its two halves: attention and MLP.

Beside models.py the only file that knows families: which modules make the MLP half. The hidden
states between the halves are what the first of these to run is given.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from core.models.blocks import decoder_blocks, run_block
from core.models.families import MLP_HALF
from core.parallel import whole, write_


class _Reached(Exception):  # noqa: N818
    """The MLP half begins: carries its input."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@dataclass(frozen=True)
class Half:
    """What one half of a block trains, and how its output is had."""

    name: str
    """`attention` or `mlp`."""
    block: nn.Module
    modules: tuple[str, ...]
    """Names of the children in the MLP half."""

    def parameters(self) -> list[nn.Parameter]:
        """The half's own parameters."""
        return [
            param
            for name, param in self.block.named_parameters()
            if (name.partition(".")[0] in self.modules) == (self.name == "mlp")
        ]

    def output(self, hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Hidden states after this half, for the block's inputs; the other half is not trained.

        [batch, seq_len, hidden_size]; between the halves OPT has one row a token.
        """
        if self.name == "mlp":
            return run_block(self.block, hidden, kwargs)
        with self._stopping_before_mlp():
            try:
                run_block(self.block, hidden, kwargs)
            except _Reached as reached:
                return reached.hidden.view(hidden.shape)
        raise AssertionError("no module of the MLP half ran")

    @contextmanager
    def _stopping_before_mlp(self) -> Iterator[None]:
        def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            raise _Reached(inputs[0])

        hooks = [getattr(self.block, name).register_forward_pre_hook(stop) for name in self.modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class PlainBlocks:
    """Makes blocks of a model into ordinary float32 modules that every rank holds in full."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.kind = model, model.config.model_type
        with torch.device("meta"):
            self.skeleton = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)

    @torch.no_grad()
    def take(self, index: int, device: torch.device) -> nn.Module:
        """A copy of one block (collective)."""
        source = decoder_blocks(self.model)[index]
        block = copy.deepcopy(decoder_blocks(self.skeleton)[index]).to_empty(device=device)
        for name, param in source.named_parameters():
            block.get_parameter(name).copy_(whole(param))
        for name, buffer in source.named_buffers():
            block.get_buffer(name).copy_(buffer)
        return block.eval()

    def put_(self, index: int, block: nn.Module) -> None:
        """Writes a copy's parameters back into this rank's parts."""
        target = decoder_blocks(self.model)[index]
        for name, param in block.named_parameters():
            write_(target.get_parameter(name), param.detach())

    def halves(self, block: nn.Module) -> tuple[Half, Half]:
        """Attention, then MLP."""
        modules = MLP_HALF[self.kind]
        return Half("attention", block, modules), Half("mlp", block, modules)
