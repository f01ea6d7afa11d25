"""A model sharded over ranks by FSDP2, block by block."""

from __future__ import annotations

import torch
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from transformers import PreTrainedModel

from core.models.blocks import decoder_blocks
from core.parallel import Ranks


def shard_(model: PreTrainedModel, ranks: Ranks, offload: bool = False) -> None:
    """Move the model to the device and, with several ranks, shard it block by block.

    With `offload` shards, gradients and moments stay in host memory, and a block is on the device
    only while it runs. That needs a process group even for one rank.
    """
    policy = OffloadPolicy()
    if offload:
        policy = CPUOffloadPolicy(pin_memory=ranks.device.type == "cuda")
        for buffer in model.buffers():
            buffer.data = buffer.data.to(ranks.device)
    else:
        model.to(ranks.device)  # pyright: ignore[reportArgumentType]
        if ranks.size == 1:
            return
    mesh = ranks.mesh()
    for block in decoder_blocks(model):
        fully_shard(block, mesh=mesh, offload_policy=policy)
    # By default the root stays whole after a forward without gradients. An optimizer made then
    # would hold parameters that soon vanish.
    fully_shard(model, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
    # FSDP2 takes the first module that runs for the root. Pruning runs single blocks, so run the
    # true root first, once, on a window of two tokens.
    with torch.no_grad():
        model(torch.zeros(1, 2, dtype=torch.long, device=ranks.device))
    for module in (model, *decoder_blocks(model)):
        module.reshard()  # pyright: ignore[reportCallIssue]
