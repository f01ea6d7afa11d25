"""Checks of a loaded model: its blocks give what it gives, and no token sees a later one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.models.anatomy import AnatomyError
from core.models.blocks import decoder_blocks
from core.models.calls import Calls, logits_after
from core.models.residence import Streamed
from core.parallel import gathered

ROUNDING = 1e-5
TOLERANCE = 1e-2
"""Difference that rounding may make where one kernel may round otherwise than another."""


@torch.no_grad()
def require_equal_blocks(model: PreTrainedModel, device: torch.device) -> None:
    """Compare the model's own forward pass on two tokens with its blocks (collective).

    A second pass shows that the logits of the first token do not depend on the other one.

    Args:
        model: weights are in memory, whole or sharded.
        device: where it runs.

    Raises:
        AnatomyError: the logits of the blocks differ, on a CPU in float32 by a single bit; or a
            token sees a later one.
    """
    ids = torch.tensor([[0, 1]], device=device)
    wanted = model(input_ids=ids, use_cache=False).logits
    with gathered(model):
        calls = Calls(model, device)
        hidden = calls.add(ids)
    for index, block in enumerate(decoder_blocks(model)):
        with gathered(block):
            hidden = calls.run(block, index, 0, hidden)
    with gathered(model):
        found = logits_after(model, ids, hidden)
    changed = model(input_ids=torch.zeros_like(ids), use_cache=False).logits
    require_equal_logits(found, wanted, changed)


@torch.no_grad()
def require_equal_streamed_blocks(model: PreTrainedModel, place: Streamed) -> None:
    """Do the same for a model whose weights are in files, which are read once.

    Both pairs of tokens are one batch. Each block is open while the model's own pass runs it, and
    is then run by itself on what the blocks before it gave.

    Raises:
        AnatomyError: as above; it names the first block that differs.
    """
    ids = torch.tensor([[0, 1], [0, 0]], device=place.ranks.device)
    with place.opened(model):
        calls = Calls(model, ids.device)
        hidden = calls.add(ids)

        def compare(index: int, block: nn.Module, output: Any) -> None:
            nonlocal hidden
            hidden = calls.run(block.forward, index, 0, hidden)
            own = output if isinstance(output, Tensor) else output[0]
            if not are_equal(hidden, own, tolerance_of(own)):
                raise AnatomyError(f"block {index}, run by itself, gives other hidden states")

        with place.running(compare):
            wanted = model(input_ids=ids, use_cache=False).logits
        found = logits_after(model, ids, hidden)
    require_equal_logits(found, wanted, wanted.flip(0))


def require_equal_logits(found: Tensor, wanted: Tensor, changed: Tensor) -> None:
    """Compare logits of the blocks with the model's own, and with those of another second token."""
    if not are_equal(found, wanted, tolerance_of(wanted)):
        raise AnatomyError("its blocks, run one by one, give other logits than the whole model")
    if not are_equal(changed[:, 0], wanted[:, 0], tolerance_of(wanted) or ROUNDING):
        raise AnatomyError("its tokens see later ones: it is an encoder, not a causal model")


def tolerance_of(tensor: Tensor) -> float:
    """Return 0 on a CPU in float32, where equal operations give equal bits."""
    exact = tensor.device.type == "cpu" and tensor.dtype == torch.float32
    return 0.0 if exact else TOLERANCE


def are_equal(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Return True if tensors are equal, or differ by less than a part of the largest value."""
    most = tolerance * wanted.abs().max().item() if tolerance else 0.0
    return torch.allclose(found, wanted, rtol=0.0, atol=most, equal_nan=True)
