"""Checks of a loaded model: its blocks give what it gives, and no token sees a later one."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.models.anatomy import AnatomyError
from core.models.blocks import decoder_blocks
from core.models.calls import Calls, logits_after
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
    exact = device.type == "cpu" and wanted.dtype == torch.float32
    if not are_equal(found, wanted, 0.0 if exact else TOLERANCE):
        raise AnatomyError("its blocks, run one by one, give other logits than the whole model")
    changed = model(input_ids=torch.zeros_like(ids), use_cache=False).logits
    if not are_equal(changed[:, 0], wanted[:, 0], ROUNDING if exact else TOLERANCE):
        raise AnatomyError("its tokens see later ones: it is an encoder, not a causal model")


def are_equal(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Return True if tensors are equal, or differ by less than a part of the largest value."""
    most = tolerance * wanted.abs().max().item() if tolerance else 0.0
    return torch.allclose(found, wanted, rtol=0.0, atol=most, equal_nan=True)
