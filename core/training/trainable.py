"""Choice of what trains: all, biases and norms, or these and masked low-rank updates (PERP).

Within `trained` the other parameters of a module are frozen. At its end everything is as before,
and low-rank updates are merged into their weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from core.models.matrices import Matrix
from core.parallel import local
from core.training import lora
from core.training_config import Training


@dataclass(frozen=True)
class Trained:
    """Parameters that an optimizer works on."""

    sharded: list[nn.Parameter]
    """Parameters that FSDP2 shards. It sums their gradients over ranks."""
    whole: list[nn.Parameter]
    """Parameters that every rank holds in full. The optimizer sums their gradients."""
    masks: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Each masked parameter among them, with this rank's part of its mask."""


@contextmanager
def trained(
    module: nn.Module,
    matrices: Mapping[str, Matrix],
    masks: Mapping[str, Tensor],
    config: Training,
    dtype: torch.dtype,
    among: Iterable[nn.Parameter] | None = None,
) -> Iterator[Trained]:
    """Freeze what does not train, and merge low-rank updates at the end (collective).

    Args:
        module: a model or a block of one.
        matrices: those of its prunable matrices that may train, by name.
        masks: full masks under the same names; none for the dense model.
        config: says what trains.
        dtype: of products in forward and backward passes.
        among: the parameters that may train, by default all of the module.
    """
    everything = list(module.parameters())
    chosen = everything if among is None else list(among)
    if config.trainable != "all":
        # In all known families the vectors are exactly the biases and norms. A layer of experts
        # has a vector for each expert.
        biases = {id(p) for name, p in module.named_parameters() if name.endswith("_bias")}
        chosen = [param for param in chosen if param.dim() == 1 or id(param) in biases]
    places = {id(param) for param in chosen}
    updates: list[lora.LowRankUpdate] = []
    try:
        for param in everything:
            param.requires_grad_(id(param) in places)
        if config.trainable == "masklora":
            updates.extend(lora.attach_(one, config.rank, dtype) for one in matrices.values())
        factors = [factor for update in updates for factor in (update.a, update.b)]
        # A module that no rank shares with another has no sharded parameters at all.
        is_sharded = any(isinstance(param, DTensor) for param in everything)
        split = (chosen, factors) if is_sharded or among is None else ([], chosen + factors)
        yield Trained(*split, mask_shards(matrices, masks, places))
        for update in updates:
            update.merge_()
    finally:
        for update in updates:
            update.detach_()
        for param in everything:
            param.requires_grad_(True)


def mask_shards(
    matrices: Mapping[str, Matrix], masks: Mapping[str, Tensor], places: set[int] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Return masked weights, of those in `places`, with this rank's part of each mask."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for name, matrix in matrices.items():
        param = matrix.parameter
        if name in masks and (places is None or id(param) in places):
            # One parameter holds the matrices of all experts.
            everything = torch.ones_like(local(param.detach()), dtype=torch.bool)
            _, mask = found.setdefault(id(param), (param, everything))
            matrix.inside(mask).copy_(matrix.cut(masks[name]))
    return list(found.values())
