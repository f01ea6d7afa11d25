"""A check that a model's blocks, run one by one, give what the model gives."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.models.anatomy import AnatomyError
from core.models.blocks import decoder_blocks
from core.models.calls import Calls, logits_after
from core.parallel import gathered

TOLERANCE = 1e-2
"""Difference that rounding may make where one kernel may round otherwise than another."""


@torch.no_grad()
def require_equal_blocks(model: PreTrainedModel, device: torch.device) -> None:
    """Compare the model's own forward pass on two tokens with its blocks (collective).

    Args:
        model: weights are in memory, whole or sharded.
        device: where it runs.

    Raises:
        AnatomyError: the logits differ, on a CPU in float32 by a single bit.
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


def are_equal(found: Tensor, wanted: Tensor, tolerance: float) -> bool:
    """Return True if tensors are equal, or differ by less than a part of the largest value."""
    most = tolerance * wanted.abs().max().item() if tolerance else 0.0
    return torch.allclose(found, wanted, rtol=0.0, atol=most, equal_nan=True)
