"""Training in bf16 on float32 weights: FSDP2 rounds the shards of a block whenever it runs.

Autocast would keep a rounded copy of the whole model from the forward to the backward pass, on
every rank. FSDP2 keeps that of one block, and sums gradients in float32. Hidden states between
blocks are bf16 too. Losses, gradients of shards, moments and steps are float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from core.models.anatomy import skeleton_of
from core.models.sharding import shard_
from core.parallel import local, rows_of
from core.ranks import Ranks, default_group


@contextmanager
def computing_in(
    model: PreTrainedModel, dtype: torch.dtype, ranks: Ranks
) -> Iterator[PreTrainedModel]:
    """A model on the weights of a float32 model that computes in `dtype` (collective).

    For float32 it is the model itself. Otherwise it is a second one that FSDP2 shards, on one rank
    too. Whoever prunes, evaluates or saves the given model never sees rounded weights, because it
    knows nothing of the second one. Weights have memory once: the two share it where they can.
    Elsewhere the given model has no weights until the context ends, and then the trained ones.
    """
    if dtype == torch.float32:
        yield model
        return
    with default_group(), warnings.catch_warnings():
        # OPT's blocks return a view, which nobody changes in place.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
        twin = skeleton_of(model, torch.float32)
        for name, buffer in model.named_buffers():
            path, _, leaf = name.rpartition(".")
            setattr(twin.get_submodule(path), leaf, buffer)
        lender = Lender(model)
        offload = lender.device != ranks.device.type
        shard_(twin, ranks, offload, dtype, lender.read)
        try:
            yield twin
        finally:
            lender.take_back(twin)


class Lender:
    """Lends the parameters of a model to another one on the same ranks."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.parameters = dict(model.named_parameters())
        self.emptied: dict[str, int] = {}
        """Parameters without memory for now, and the bytes that they had."""

    @property
    def device(self) -> str:
        """Type of the device where this rank's parts lie."""
        return local(next(iter(self.parameters.values()))).device.type

    @torch.no_grad()
    def read(self, name: str, rows: slice) -> torch.Tensor:
        """Return this rank's rows of a parameter."""
        param = self.parameters[name]
        assert rows == rows_of(param), f"{name} is cut in another way"
        part = local(param.detach())
        storage = part.untyped_storage()
        if storage.nbytes() == part.nbytes:
            return part
        # FSDP2 pads rows that do not divide evenly, and would copy these again.
        copied = part.clone()
        self.emptied[name] = storage.nbytes()
        storage.resize_(0)
        return copied

    @torch.no_grad()
    def take_back(self, borrower: PreTrainedModel) -> None:
        """Give the parameters the values that the other model has now."""
        trained = dict(borrower.named_parameters())
        for name, param in self.parameters.items():
            mine, theirs = local(param), local(trained[name])
            if name in self.emptied:
                mine.untyped_storage().resize_(self.emptied[name])
            if mine.data_ptr() != theirs.data_ptr():
                mine.copy_(theirs)
