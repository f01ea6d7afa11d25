"""Tensors that several ranks share: whole, local, cut and written.

One rank works on plain modules. Several use FSDP2, which shards each decoder block and then the
root, so that a rank holds only the block in whole that it is working on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Keep the parameters that FSDP2 manages for this very module whole on every rank.

    They stay whole when the module runs, so ranks may run it a different number of times.
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
    """Return the full tensor on every rank (a collective call for a sharded one)."""
    if not isinstance(tensor, DTensor):
        return tensor
    # Gather shards in host memory on the device: ranks may only reach each other through devices.
    return tensor.to(compute_device(tensor)).full_tensor()  # pyright: ignore


def from_owner(part: Tensor, shape: Sequence[int], sharded: DTensor, row: int) -> Tensor:
    """Return the tensor of the rank that holds a row of a sharded one, on all ranks (collective).

    Args:
        part: the tensor on that rank; not read on others.
        shape: its shape.
        sharded: FSDP2 deals out its rows as `torch.chunk` does.
        row: index in its first dimension.
    """
    full = torch.empty(shape, dtype=part.dtype, device=compute_device(sharded))
    mesh, rows = sharded.device_mesh, rows_of(sharded)
    if rows.start <= row < rows.stop:
        full.copy_(part)
    dist.broadcast(full, group=mesh.get_group(), group_src=row // -(-len(sharded) // mesh.size()))
    return full


def compute_device(tensor: Tensor) -> torch.device:
    """Return the device on which a parameter is used; its shard may lie in host memory."""
    if isinstance(tensor, DTensor):
        return torch.device(tensor.device_mesh.device_type)
    return tensor.device


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def rows_of(tensor: Tensor) -> slice:
    """Return the rows of the full tensor that this rank holds (FSDP2 shards dimension 0)."""
    if not isinstance(tensor, DTensor):
        return slice(0, len(tensor))
    shape, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return slice(offset[0], offset[0] + shape[0])


def shard_like(full: Tensor, parameter: Tensor) -> Tensor:
    """Return this rank's part of `full`, cut like `parameter`."""
    if not isinstance(parameter, DTensor):
        return full
    # Every rank holds the same `full`, so no rank needs to send anything.
    placed = distribute_tensor(
        full, parameter.device_mesh, parameter.placements, src_data_rank=None
    )
    return placed.to_local().to(local(parameter).device)


@torch.no_grad()
def write_(parameter: Tensor, full: Tensor) -> None:
    """Overwrite a parameter with a full tensor that every rank holds."""
    local(parameter).copy_(shard_like(full.to(parameter.device), parameter))
