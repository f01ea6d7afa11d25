"""Activation checkpointing: a block keeps its input alone and runs again in the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from core.models.blocks import decoder_blocks


@contextmanager
def recomputed(model: PreTrainedModel) -> Iterator[None]:
    """Within, every decoder block of the model does so; numbers stay what they are.

    Inside FSDP2's hooks, which have gathered the block's weights by the time it runs again. Not
    transformers' own switch: that needs training mode, and so dropout.
    """
    blocks = list(decoder_blocks(model))
    for block in blocks:
        block.forward = functools.partial(
            checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
        )
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]
