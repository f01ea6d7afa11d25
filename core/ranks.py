"""The ranks that work on one model: sums, agreement, division of work.

Whoever runs this code starts the process group. Nothing here imports torch's sharded tensors, which
take a second to import.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those that work on one model, or on a part of it."""

    rank: int
    size: int
    device: torch.device
    group: ProcessGroup | None = None
    """Those ranks; None for all processes."""

    @classmethod
    def current(cls, device: torch.device | str = "cpu") -> Ranks:
        """Return the rank in the default process group, or a single rank if none was started."""
        device = torch.device(device)
        if dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(0, 1, device)

    def mesh(self) -> DeviceMesh:
        """Return a one-dimensional mesh over all ranks."""
        return init_device_mesh(self.device.type, (self.size,))

    def share(self, items: Tensor, dealt: int = 0) -> Tensor:
        """Return this rank's share of a batch of windows: every `size`-th, from `rank` on.

        After `dealt` windows of earlier batches the next rank in turn has the first.
        """
        return items[(self.rank - dealt) % self.size :: self.size]

    def turns(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """Return every `size`-th item from `rank` on, as many on each rank.

        Forward passes of sharded models are collective, so a rank that has one item fewer gets the
        last one again, with False for an item that does not count.
        """
        places = (turn + self.rank for turn in range(0, len(items), self.size))
        return [(items[min(place, len(items) - 1)], place < len(items)) for place in places]

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over ranks in place, and return it."""
        if self.size > 1:
            on_device = tensor.to(self.device).contiguous()
            dist.all_reduce(on_device, group=self.group)
            tensor.copy_(on_device)
        return tensor

    def total(self, count: int) -> int:
        """Return the sum of a whole number over ranks; the host waits for it."""
        if self.size == 1:
            return count
        return int(self.sum_(torch.tensor(count, device=self.device)))

    def among(self, members: range) -> Ranks:
        """Return this process among some ranks of all; all ranks must call it (collective).

        Ranks that are no members must not use the result.
        """
        if len(members) == self.size:
            return self
        place = members.index(self.rank) if self.rank in members else -1
        group = None if len(members) == 1 else process_group(dist.group.WORLD, members)
        return Ranks(place, len(members), self.device, group)

    def sum_to_(self, tensor: Tensor, owner: int) -> None:
        """Sum a tensor over ranks in place at `owner`; on other ranks its content is undefined."""
        if self.size > 1:
            on_device = tensor.to(self.device).contiguous()
            dist.reduce(on_device, group=self.group, group_dst=owner)
            tensor.copy_(on_device)

    def broadcast_(self, tensor: Tensor, owner: int) -> None:
        """Copy the tensor of `owner` to all ranks in place."""
        if self.size > 1:
            dist.broadcast(tensor, group=self.group, group_src=owner)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            # nccl only enqueues the sum: the host waits when it reads the value.
            self.sum_(torch.zeros(1, device=self.device)).item()

    def agree(self, error: str | None) -> str | None:
        """Return the first error in order of ranks, on all ranks; None if no rank has one."""
        return next((e for e in self.gather(error) if e is not None), None)

    def gather(self, value: Any) -> list[Any]:
        """Return the small values of all ranks in rank order, on all ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, self.group)
        return values


@functools.cache
def process_group(world: ProcessGroup, members: range) -> ProcessGroup | None:
    """Return a group of some processes of the world; None to those that are no members.

    All processes must ask for the same groups in the same order.
    """
    group = dist.new_group(list(members))
    return group if isinstance(group, ProcessGroup) else None


ALONE = Ranks(0, 1, torch.device("cpu"))
"""A process that shares its work with no other."""


@contextmanager
def default_group() -> Iterator[None]:
    """The default process group; where none was started, one of this process alone.

    FSDP2 wants one. Its store is its own, so it needs no launcher and no port. Only torch for Linux
    has nccl; without a name torch would look for a backend for the GPU of a Mac.
    """
    if dist.is_initialized():
        yield
        return
    backend = None if dist.is_nccl_available() else "gloo"
    with own_store() as store:
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


@contextmanager
def own_store() -> Iterator[Any]:
    """A store for one process: in memory or, with torch for Windows, in a file."""
    in_memory = getattr(dist, "HashStore", None)
    if in_memory is not None:
        yield in_memory()
        return
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = os.path.join(folder, "store")
        yield dist.FileStore(file, 1)  # pyright: ignore[reportPrivateImportUsage]


def assign_owners(costs: Iterable[float], size: int) -> list[int]:
    """Return a rank for each task: largest task first, to the rank with the least work so far."""
    costs = list(costs)
    load = [0.0] * size
    owners = [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[i] = min(range(size), key=load.__getitem__)
        load[owners[i]] += costs[i]
    return owners
