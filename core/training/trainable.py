"""Which parameters train: all, biases and norms, or these and masked low-rank updates (PERP).

Within `trained` the rest of a module is frozen; outside everything is as before, low-rank updates
merged into the weights that they belong to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from core.config import FinetuneConfig
from core.parallel import shard_like
from core.training import lora


@dataclass(frozen=True)
class Trained:
    """What an optimizer works on."""

    sharded: list[nn.Parameter]
    """Parameters that FSDP2 shards, whose gradients it sums over ranks."""
    whole: list[nn.Parameter]
    """Parameters that every rank holds in full; the optimizer sums their gradients."""
    masks: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Each masked parameter among them with this rank's part of its mask."""


@contextmanager
def trained(
    module: nn.Module,
    linears: Mapping[str, nn.Linear],
    masks: Mapping[str, Tensor],
    config: FinetuneConfig,
    dtype: torch.dtype,
    among: Iterable[nn.Parameter] | None = None,
) -> Iterator[Trained]:
    """Freezes what does not train, and at the end merges low-rank updates (collective).

    Args:
        module: a model or a block of one.
        linears: its prunable matrices by qualified name, those that may train.
        masks: full masks under the same names; none for the dense model.
        config: says what trains.
        dtype: of products in forward and backward passes.
        among: the parameters that may train, by default all of the module.
    """
    everything = list(module.parameters())
    chosen = everything if among is None else list(among)
    if config.trainable != "all":
        # In all known families the vectors are just these.
        chosen = [param for param in chosen if param.dim() == 1]
    places = {id(param) for param in chosen}
    factors: list[nn.Parameter] = []
    try:
        for param in everything:
            param.requires_grad_(id(param) in places)
        if config.trainable == "masklora":
            rank = config.recovery()["lora_rank"]
            for name, linear in linears.items():
                factors += lora.attach_(linear, name, rank, dtype)
        # A module that no rank shares with another has no sharded parameters at all.
        is_sharded = any(isinstance(param, DTensor) for param in everything)
        split = (chosen, factors) if is_sharded or among is None else ([], chosen + factors)
        yield Trained(*split, mask_shards(linears, masks, places))
        if config.trainable == "masklora":
            for linear in linears.values():
                lora.merge_(linear)
    finally:
        if config.trainable == "masklora":
            for linear in linears.values():
                lora.detach_(linear)
        for param in everything:
            param.requires_grad_(True)


def mask_shards(
    linears: Mapping[str, nn.Linear], masks: Mapping[str, Tensor], places: set[int] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Masked weights, of those in `places`, with this rank's part of each mask, cut alike."""
    return [
        (linear.weight, shard_like(masks[name].to(linear.weight.device), linear.weight))
        for name, linear in linears.items()
        if name in masks and (places is None or id(linear.weight) in places)
    ]
