"""Decoder blocks of a model with their prunable matrices, and one block run by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from core.checks import require
from core.models.families import FAMILIES, Family
from core.models.matrices import Matrix


@dataclass(frozen=True)
class Block:
    """One decoder block of a model."""

    index: int
    module: nn.Module
    matrices: dict[str, Matrix]
    """Its prunable matrices by name, in module order."""


def family_of(model: PreTrainedModel) -> Family:
    """Return the facts of the model's family."""
    return FAMILIES[model.config.model_type]


def hidden_backbone(model: PreTrainedModel) -> nn.Module:
    """Return the module from token ids to the final norm, without a head."""
    return model.get_submodule(family_of(model).backbone)


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder blocks in the order in which they run."""
    blocks = model.get_submodule(family_of(model).blocks)
    assert isinstance(blocks, nn.ModuleList) and len(blocks) > 0
    return blocks


def prunable_blocks(model: PreTrainedModel) -> list[Block]:
    """Return the decoder blocks with their prunable matrices.

    Embeddings, `lm_head` and OPT-350M's `project_in/out` are outside the blocks. Pruning a weight
    that another place in the model shares would change that place too. No family does this.

    Raises:
        BadInputError: a matrix is tied to another place all the same.
    """
    path = family_of(model).blocks
    blocks = [
        Block(index, module, matrices_of(module, f"{path}.{index}", index))
        for index, module in enumerate(decoder_blocks(model))
    ]
    places = Counter(place(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for block in blocks:
        assert block.matrices, "a decoder block without linear layers"
        for name, matrix in block.matrices.items():
            remedy = f"{name} shares its tensor with another place; save it with a copy of its own"
            alone = places[place(matrix.parameter)] == 1
            require(alone, "models", model.config.name_or_path or "given", remedy)
    return blocks


def prunable_matrices(model: PreTrainedModel) -> dict[str, Matrix]:
    """Return all prunable matrices by name, in model order."""
    return {
        name: matrix for block in prunable_blocks(model) for name, matrix in block.matrices.items()
    }


def matrices_of(module: nn.Module, path: str, index: int) -> dict[str, Matrix]:
    """Return the matrices of a block, or of a copy of it, that is found at `path` in the model."""
    return {
        f"{path}.{name}": Matrix(f"{path}.{name}", index, linear)
        for name, linear in module.named_modules()
        if isinstance(linear, nn.Linear)
    }


def place(parameter: Tensor) -> int:
    """Return a number that is equal for two parameters if a write to one shows in the other."""
    if isinstance(parameter, DTensor) or parameter.is_meta or parameter.numel() == 0:
        return id(parameter)
    return parameter.data_ptr()


class StandIn(nn.Module):
    """Stands in for a block: notes how it is called and returns hidden states without running it.

    The block stays a submodule, because FSDP2 looks for the parts of a model at the first forward.
    """

    def __init__(self, block: nn.Module, output: Tensor | None = None):
        super().__init__()
        self.block = block
        self.output = output
        self.hidden: Tensor | None = None
        self.kwargs: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Note the arguments; return the output given, or the hidden states."""
        self.hidden, self.kwargs = hidden_states, kwargs
        return hidden_states if self.output is None else self.output

    def __getattr__(self, name: str) -> Any:
        # Some backbones read attributes of their blocks, such as the kind of attention.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)


@torch.no_grad()
def block_inputs(model: PreTrainedModel, input_ids: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    """Return the inputs that the backbone gives its blocks, without running any block.

    Args:
        model: the causal LM; embeddings must be whole, not sharded.
        input_ids: windows of equal length, [batch, seq_len].

    Returns:
        The input of the first block [batch, seq_len, hidden_size], and the keyword arguments of
        each block (mask, position embeddings: they depend on the block's kind of attention).
    """
    with stood_in(model) as stand_ins:
        hidden_backbone(model)(input_ids=input_ids, use_cache=False)
    hidden = stand_ins[0].hidden
    assert hidden is not None
    drop = ("past_key_values", "use_cache")
    kwargs = [{k: v for k, v in s.kwargs.items() if k not in drop} for s in stand_ins]
    return hidden, kwargs


@torch.no_grad()
def logits_after(model: PreTrainedModel, input_ids: Tensor, hidden: Tensor) -> Tensor:
    """Return the logits of the whole model, given the output of its last block.

    Args:
        model: the causal LM; all that lies outside of the blocks must be whole.
        input_ids: windows of equal length, [batch, seq_len].
        hidden: output of the last block, [batch, seq_len, hidden_size].
    """
    with stood_in(model, hidden):
        return model(input_ids=input_ids, use_cache=False).logits


@contextmanager
def stood_in(model: PreTrainedModel, output: Tensor | None = None) -> Iterator[list[StandIn]]:
    """Put a stand-in in the place of each block for this long; `output` is what they return."""
    blocks = decoder_blocks(model)
    originals = list(blocks)
    stand_ins = [StandIn(block, output) for block in originals]
    try:
        for index, stand_in in enumerate(stand_ins):
            blocks[index] = stand_in
        yield stand_ins
    finally:
        for index, block in enumerate(originals):
            blocks[index] = block


def run_block(block: Callable[..., Any], hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """Return a block's output hidden states. Some releases of transformers wrap them in a tuple."""
    output = block(hidden, **kwargs)
    return output[0] if isinstance(output, tuple) else output
