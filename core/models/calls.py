"""Calls of decoder blocks: their arguments beside hidden states, and a block run by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.models.anatomy import BlockFacts, anatomy_of
from core.models.blocks import decoder_blocks, hidden_backbone

NEVER_GIVEN = ("past_key_values", "use_cache")
"""Arguments for generating text, which blocks do without."""


@dataclass(frozen=True)
class Call:
    """Arguments of a block beside its hidden states."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def replaced(self, values: dict[int | str, Any]) -> Call:
        """Return the call with other values of some arguments, by place or name."""
        args = tuple(values.get(place, value) for place, value in enumerate(self.args))
        named = {key: value for key, value in values.items() if isinstance(key, str)}
        return Call(args, self.kwargs | named)


def run_block(block: Callable[..., Any], hidden: Tensor, call: Call) -> Tensor:
    """Return a block's output hidden states. Some blocks return more beside them."""
    output = block(hidden, *call.args, **call.kwargs)
    return output if isinstance(output, Tensor) else output[0]


class StandIn(nn.Module):
    """Stands in for a block: notes how it is called and returns hidden states without running it.

    The block stays a submodule, because FSDP2 looks for the parts of a model at the first forward.
    """

    def __init__(self, block: nn.Module, facts: BlockFacts, output: Tensor | None = None):
        super().__init__()
        self.block = block
        self.facts = facts
        self.output = output
        self.hidden: Tensor | None = None
        self.call = Call()

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Note the arguments; return the output given, or the hidden states."""
        named = {key: value for key, value in kwargs.items() if key not in NEVER_GIVEN}
        self.hidden, self.call = hidden_states, Call(args, named)
        output = hidden_states if self.output is None else self.output
        count = self.facts.num_outputs
        return output if count is None else (output, *[None] * (count - 1))

    def __getattr__(self, name: str) -> Any:
        # Some backbones read attributes of their blocks, such as the kind of attention.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)


@torch.no_grad()
def block_inputs(model: PreTrainedModel, input_ids: Tensor) -> tuple[Tensor, list[Call]]:
    """Return the inputs that the backbone gives its blocks, without running any block.

    Args:
        model: the causal LM; embeddings must be whole, not sharded.
        input_ids: windows of equal length, [batch, seq_len].

    Returns:
        The input of the first block [batch, seq_len, hidden_size], and the further arguments of
        each block (mask, position embeddings: they depend on the block's kind of attention).
    """
    with stood_in(model) as stand_ins:
        hidden_backbone(model)(input_ids=input_ids, use_cache=False)
    hidden = stand_ins[0].hidden
    assert hidden is not None
    return hidden, [stand_in.call for stand_in in stand_ins]


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
    blocks, facts = decoder_blocks(model), anatomy_of(model).blocks
    originals = list(blocks)
    stand_ins = [StandIn(block, one, output) for block, one in zip(originals, facts, strict=True)]
    try:
        for index, stand_in in enumerate(stand_ins):
            blocks[index] = stand_in
        yield stand_ins
    finally:
        for index, block in enumerate(originals):
            blocks[index] = block


class Calls:
    """The calls of all blocks for some batches of windows, which are never padded.

    Most models give a block the same arguments for all batches of one shape, which are kept once.
    Where arguments depend on the tokens, or come from the block before, each batch has its own.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device) -> None:
        """Find out if arguments depend on the tokens; embeddings must be whole."""
        self.model, self.device = model, device
        self.facts = anatomy_of(model).blocks
        self.shapes: list[torch.Size] = []
        """The shape of each batch."""
        self.shared: dict[torch.Size, list[Call]] = {}
        self.own: list[list[Call]] = []
        """The calls of each batch, if they differ from batch to batch."""
        self.differ = any(one.carried for one in self.facts) or self.depend_on_tokens()

    def depend_on_tokens(self) -> bool:
        """Return True if two batches of other tokens give the blocks other arguments."""
        tokens = torch.tensor([[0, 1]], device=self.device)
        (_, one), (_, other) = (block_inputs(self.model, ids) for ids in (tokens, tokens.flip(1)))
        return not same([vars(call) for call in one], [vars(call) for call in other])

    def add(self, input_ids: Tensor) -> Tensor:
        """Note the calls for one more batch; return the input of the first block."""
        hidden, calls = block_inputs(self.model, input_ids.to(self.device))
        self.shapes.append(input_ids.shape)
        if self.differ:
            self.own.append(calls)
        else:
            self.shared.setdefault(input_ids.shape, calls)
        return hidden

    def of(self, batch: int, index: int) -> Call:
        """Return the call of a block for a batch."""
        calls = self.own[batch] if self.differ else self.shared[self.shapes[batch]]
        return calls[index]

    def run(self, block: Callable[..., Any], index: int, batch: int, hidden: Tensor) -> Tensor:
        """Return a block's output hidden states; note what else the next block gets from it."""
        call = self.of(batch, index)
        following = self.facts[index + 1 : index + 2]
        if not following or not following[0].carried:
            return run_block(block, hidden, call)
        output = block(hidden, *call.args, **call.kwargs)
        values = {key: output[place] for key, place in following[0].carried.items()}
        self.own[batch][index + 1] = self.own[batch][index + 1].replaced(values)
        return output[0]


def same(one: Any, other: Any) -> bool:
    """Return True if arguments are equal, and if no block can write into them."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return True
