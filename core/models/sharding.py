"""A model sharded over ranks by FSDP2, block by block.

A model is sharded while it is on `meta`, without memory for weights. Then each rank makes its own
rows of each parameter. No device ever holds more of a model than these.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from core.models.blocks import decoder_blocks
from core.parallel import rows_of
from core.ranks import Ranks

ReadRows = Callable[[str, slice], Tensor]
"""(parameter name, rows) -> these rows of the full parameter, on any device.

A tied parameter is asked for once, by its first name in `model.named_parameters()`. Rows are a
slice of dimension 0 with a start and a stop. The tensor is kept as it is if device and dtype are
right, so it should not be a view into all rows.
"""


def shard_(
    model: PreTrainedModel,
    ranks: Ranks,
    offload: bool = False,
    compute: torch.dtype | None = None,
    read: ReadRows | None = None,
) -> None:
    """Put a model on the device and, with several ranks, shard it block by block.

    Args:
        model: on the CPU, or on `meta` if `read` is given. Buffers are never on `meta`.
        ranks: this process among the others.
        offload: shards, gradients and moments stay in host memory, and a block is on the device
            only while it runs. That needs a process group even for one rank.
        compute: the dtype of weights and activations in forward and backward passes, which FSDP2
            makes from the shards each time. Only training uses it: whatever reads the weights of a
            module while it runs would get rounded ones. It needs a process group too.
        read: gives the weights, by default those that the model has.
    """
    for buffer in model.buffers():
        buffer.data = buffer.data.to(ranks.device)
    if read is None:
        read = taken_from_(model)
    is_plain = ranks.size == 1 and not offload and compute is None
    if not is_plain:
        wrap_(model, ranks, offload, compute)
    fill_(model, read, torch.device("cpu") if offload else ranks.device)
    if not is_plain:
        name_root(model)


def taken_from_(model: PreTrainedModel) -> ReadRows:
    """Take the weights out of a model, which is on `meta` afterwards; return a way to read them.

    Each can be read once, and is freed then.
    """
    full = {name: param.detach() for name, param in model.named_parameters()}
    replace_parameters_(model, lambda _, param: torch.empty_like(param, device="meta"))

    def read(name: str, rows: slice) -> Tensor:
        whole = full.pop(name)
        part = whole[rows]
        return part if len(part) == len(whole) else part.clone()

    return read


def wrap_(model: PreTrainedModel, ranks: Ranks, offload: bool, compute: torch.dtype | None) -> None:
    """Shard the blocks of a model that is on `meta`, and then the rest."""
    policy = {
        "mesh": ranks.mesh(),
        "offload_policy": OffloadPolicy(),
        # Losses and sums of gradients are float32 all the same.
        "mp_policy": MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32),
    }
    if compute is None:
        policy["mp_policy"] = MixedPrecisionPolicy()
    if offload:
        pinned = ranks.device.type == "cuda"
        policy["offload_policy"] = CPUOffloadPolicy(pin_memory=pinned)
    for block in decoder_blocks(model):
        fully_shard(block, **policy)
    # By default the root stays whole after a forward without gradients. An optimizer made then
    # would hold parameters that soon vanish.
    fully_shard(model, reshard_after_forward=True, **policy)


def fill_(model: PreTrainedModel, read: ReadRows, device: torch.device) -> None:
    """Give a model on `meta` its weights: of each parameter the rows of this rank."""

    def filled(name: str, param: Tensor) -> Tensor:
        rows = rows_of(param)
        part = read(name, rows).to(device, param.dtype)
        if not isinstance(param, DTensor):
            return part
        layout = {"shape": param.shape, "stride": param.stride()}
        return DTensor.from_local(part, param.device_mesh, param.placements, **layout)

    replace_parameters_(model, filled)


def replace_parameters_(model: nn.Module, new: Callable[[str, Tensor], Tensor]) -> None:
    """Replace each parameter by `new(name, parameter)`, in all places that share it."""
    made: dict[int, nn.Parameter] = {}
    old: list[Tensor] = []  # Keeps them alive, so that no other gets the same id.
    for path, module in model.named_modules():
        for name, param in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(param) not in made:
                full_name = f"{path}.{name}" if path else name
                made[id(param)] = nn.Parameter(new(full_name, param.detach()), param.requires_grad)
                old.append(param)
            setattr(module, name, made[id(param)])


def name_root(model: PreTrainedModel) -> None:
    """Tell FSDP2 which module is its root.

    By default that is the first one that runs. Pruning runs single blocks, and a run of the whole
    model would gather every weight just for this.
    """
    fully_shard.state(model)._lazy_init()  # pyright: ignore
