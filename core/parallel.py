"""Many ranks as one: sharded parameters, masks sharded alike, sums and agreement over ranks.

One rank works on plain modules; several use FSDP2 (`fully_shard` per decoder block, then the root),
so that no rank holds a whole model outside the block it is working on. Nothing here knows who
started the process group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that work on one model."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def current(cls, device: torch.device | str = "cpu") -> Ranks:
        """The default process group, or a single rank where none was started."""
        device = torch.device(device)
        if dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(0, 1, device)

    def mesh(self) -> DeviceMesh:
        """One-dimensional mesh over all ranks."""
        return init_device_mesh(self.device.type, (self.size,))

    def share(self, items: Tensor) -> Tensor:
        """This rank's share of a batch of windows: every `size`-th, from `rank` on."""
        return items[self.rank :: self.size]

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over ranks in place."""
        if self.size > 1:
            on_device = tensor.to(self.device)
            dist.all_reduce(on_device)
            tensor.copy_(on_device)
        return tensor

    def sum_to_(self, tensor: Tensor, owner: int) -> None:
        """Sums a tensor over ranks in place at `owner`; elsewhere its content is undefined."""
        if self.size > 1:
            on_device = tensor.to(self.device)
            dist.reduce(on_device, owner)
            tensor.copy_(on_device)

    def broadcast_(self, tensor: Tensor, owner: int) -> None:
        """Copies `owner`'s tensor to all ranks in place."""
        if self.size > 1:
            dist.broadcast(tensor, owner)

    def barrier(self) -> None:
        """Waits until every rank is here."""
        if self.size > 1:
            self.sum_(torch.zeros(1, device=self.device))

    def agree(self, error: str | None) -> str | None:
        """The first rank's error that any rank has, the same on all ranks; None if none has one."""
        return next((e for e in self.gather(error) if e is not None), None)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's small value, in rank order, on all ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within, the parameters that FSDP2 manages for this very module are whole on every rank.

    They stay so however often the module runs, so ranks may run it a different number of times.
    """
    if not isinstance(module, FSDPModule):
        yield
        return
    module.set_reshard_after_forward(False, recurse=False)
    module.unshard()
    try:
        yield
    finally:
        module.reshard()
        module.set_reshard_after_forward(True, recurse=False)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor on every rank (a collective call for a sharded one)."""
    if not isinstance(tensor, DTensor):
        return tensor
    # Shards in host memory are gathered on the device: ranks may have no other way to each other.
    return tensor.to(compute_device(tensor)).full_tensor()  # pyright: ignore


def compute_device(tensor: Tensor) -> torch.device:
    """Where a parameter is when it is used; its shard may lie in host memory."""
    if isinstance(tensor, DTensor):
        return torch.device(tensor.device_mesh.device_type)
    return tensor.device


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(full: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of `full`, cut as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return full
    # Every rank holds the same `full`, so no rank needs to send anything.
    placed = distribute_tensor(
        full, parameter.device_mesh, parameter.placements, src_data_rank=None
    )
    return placed.to_local().to(local(parameter).device)


@torch.no_grad()
def write_(parameter: Tensor, full: Tensor) -> None:
    """Overwrites a parameter with a full tensor that every rank holds."""
    local(parameter).copy_(shard_like(full.to(parameter.device), parameter))


def assign_owners(costs: Iterable[float], size: int) -> list[int]:
    """Splits tasks over ranks so that the busiest has least: largest first to the freest rank."""
    costs = list(costs)
    load = [0.0] * size
    owners = [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = min(range(size), key=load.__getitem__)
        load[owners[i]] += costs[i]
    return owners
