"""Decoder blocks of a model, their prunable matrices, and one block run by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from core.models.families import BACKBONES


def hidden_backbone(model: PreTrainedModel) -> nn.Module:
    """The module from token ids through embeddings and blocks to the final norm, without a head."""
    return model.get_submodule(BACKBONES[model.config.model_type])


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks in the order in which they run."""
    blocks = hidden_backbone(model).layers
    assert isinstance(blocks, nn.ModuleList) and len(blocks) > 0
    return blocks


def prunable_linears(model: PreTrainedModel) -> list[dict[str, nn.Linear]]:
    """Every `nn.Linear` of each block by qualified name, in module order.

    Embeddings, `lm_head` and OPT-350M's `project_in/out` are outside the blocks. A weight that is
    shared with another place in the model would be pruned there too: none is, and it is checked.
    """
    prefix = f"{BACKBONES[model.config.model_type]}.layers"
    found = [
        {
            f"{prefix}.{index}.{name}": module
            for name, module in block.named_modules()
            if isinstance(module, nn.Linear)
        }
        for index, block in enumerate(decoder_blocks(model))
    ]
    assert all(found), "a decoder block without linear layers"
    places = [_place(weight) for _, weight in model.named_parameters(remove_duplicate=False)]
    for linears in found:
        for name, linear in linears.items():
            assert places.count(_place(linear.weight)) == 1, f"{name} is a tied tensor"
    return found


def _place(parameter: Tensor) -> int:
    """What two parameters have in common if a write to one shows in the other."""
    if isinstance(parameter, DTensor) or parameter.is_meta or parameter.numel() == 0:
        return id(parameter)
    return parameter.data_ptr()


class _PassThrough(nn.Module):
    """Stands in for a block: notes how it is called and hands the hidden states on.

    The block stays a submodule: FSDP2 looks for the parts of a model at the first forward.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block
        self.hidden: Tensor | None = None
        self.kwargs: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        self.hidden, self.kwargs = hidden_states, kwargs
        return hidden_states

    def __getattr__(self, name: str) -> Any:
        # Some backbones read their blocks' attributes, such as the kind of attention.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)


@torch.no_grad()
def block_inputs(model: PreTrainedModel, input_ids: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    """What the backbone gives its blocks, found without running any of them.

    Args:
        model: the causal LM; embeddings must be whole, not sharded.
        input_ids: windows of equal length, [batch, seq_len].

    Returns:
        The first block's input [batch, seq_len, hidden_size], and for each block the keyword
        arguments it is called with (mask, position embeddings: these differ by kind of attention).
    """
    blocks = decoder_blocks(model)
    originals = list(blocks)
    stand_ins = [_PassThrough(block) for block in originals]
    try:
        for index, stand_in in enumerate(stand_ins):
            blocks[index] = stand_in
        hidden_backbone(model)(input_ids=input_ids, use_cache=False)
    finally:
        for index, block in enumerate(originals):
            blocks[index] = block
    hidden = stand_ins[0].hidden
    assert hidden is not None
    drop = ("past_key_values", "use_cache")
    kwargs = [{k: v for k, v in s.kwargs.items() if k not in drop} for s in stand_ins]
    return hidden, kwargs


def run_block(block: Callable[..., Any], hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """A block's output hidden states; blocks of some releases return a tuple that begins so."""
    output = block(hidden, **kwargs)
    return output[0] if isinstance(output, tuple) else output
