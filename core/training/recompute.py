"""Activation checkpointing: a block keeps only its input and runs again in the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from core.models.blocks import decoder_blocks


@contextmanager
def recomputed(model: PreTrainedModel) -> Iterator[None]:
    """Recompute every decoder block of the model inside the context; numbers stay the same.

    The block runs again inside FSDP2's hooks, which have gathered its weights by then. The switch
    of transformers is no option, because it needs training mode, and that turns dropout on.
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
