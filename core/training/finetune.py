"""Masked training between or after prune steps: pruned weights are zero after every step.

Here is the loop over next-token or distillation losses (`losses.py`). `reconstruction.py` has the
loop over blocks. `loop.py` and `optimizer.py` hold what both share, and `trainable.py` chooses the
parameters that train. Dropout is off: rounds are short, and every number then follows from (seed,
round) alone.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.config import Training
from core.measures.sparsity import pruned_are_zero
from core.models.blocks import prunable_matrices
from core.models.mask_files import Masks
from core.precision import autocast
from core.training.loop import FinetuneReport, Loop, Progress
from core.training.losses import Distillation, TokenLosses, token_losses
from core.training.optimizer import MaskedAdamW
from core.training.recompute import recomputed
from core.training.reconstruction import reconstruct_
from core.training.trainable import mask_shards, trained


def num_windows(tokens: int, seq_len: int) -> int:
    """Return how many whole windows fit into a token budget."""
    return tokens // seq_len


def finetune_(
    model: PreTrainedModel,
    masks: Masks,
    batches: tuple[Tensor, ...],
    config: Training,
    loop: Loop,
    teacher: PreTrainedModel | None = None,
) -> FinetuneReport:
    """Train a model in place, once through all batches (collective over ranks).

    Args:
        model: float32 weights, sharded by `sharding.shard_` if there are several ranks.
        masks: full masks; an empty dict trains the dense model.
        batches: windows [num_windows, seq_len] of each optimizer step over all ranks together, in
            training order, the same on every rank; the last batch may have fewer windows.
        config: objective, trainable parameters, one learning rate and other numbers.
        loop: ranks, micro-batch, dtype, checkpoints and reports.
        teacher: the dense model, sharded in the same way; distillation and reconstruction need it.

    Raises:
        TrainingError: the loss or the gradient is not finite, on all ranks alike.
    """
    assert all(p.dtype == torch.float32 for p in model.parameters()), "training needs fp32 weights"
    model.eval()
    matrices = prunable_matrices(model)
    shards = mask_shards(matrices, masks)
    if config.objective == "reconstruct":
        assert teacher is not None
        progress = reconstruct_(model, teacher, masks, batches, config, loop)
    else:
        token_loss = token_losses
        if config.distill:
            assert teacher is not None
            softness = (config.temperature, config.mix)
            token_loss = Distillation(teacher, *softness, loop.ranks, loop.compute_dtype)
        around = recomputed(model) if loop.recompute else nullcontext()
        with around, trained(model, matrices, masks, config, loop.compute_dtype) as chosen:
            optimizer = MaskedAdamW(chosen, config, loop.ranks)
            progress = train(model, optimizer, batches, loop, token_loss)
    assert all(pruned_are_zero(param, mask) for param, mask in shards), "training filled a zero"
    num_tokens = sum(batch.numel() for batch in batches)
    return FinetuneReport(num_tokens, progress.losses, progress.first)


def train(
    model: PreTrainedModel,
    optimizer: MaskedAdamW,
    batches: tuple[Tensor, ...],
    loop: Loop,
    token_loss: TokenLosses,
) -> Progress:
    """Take one optimizer step for each batch; return what was done."""
    progress = Progress(loop, len(batches), model, optimizer.optimizer)
    for step in range(progress.first, len(batches)):
        loss = accumulate_gradients(model, batches[step], loop, token_loss)
        optimizer.step(step, len(batches), loss)
        progress.add(loss)
        progress.save_if_due()
    return progress


def accumulate_gradients(
    model: PreTrainedModel, batch: Tensor, loop: Loop, token_loss: TokenLosses
) -> float:
    """Add the gradients of the mean loss over a global batch; return that loss.

    The loss is divided by the number of predicted tokens in the whole batch, so neither the number
    of ranks nor the micro-batch changes it. Ranks take turns with the windows. If the windows do
    not divide evenly, a repeated window of weight zero keeps the collective calls of the ranks in
    step.
    """
    ranks = loop.ranks
    predicted = len(batch) * (batch.shape[1] - 1)
    missing = -len(batch) % ranks.size
    weights = torch.ones(len(batch) + missing)
    weights[len(batch) :] = 0.0
    windows = ranks.share(torch.cat([batch, batch[:1].expand(missing, -1)]))
    total = torch.zeros((), dtype=torch.float64)
    pieces = zip(windows.split(loop.micro_batch), ranks.share(weights).split(loop.micro_batch))
    for ids, weight in pieces:
        ids, weight = ids.to(ranks.device), weight.to(ranks.device)
        with autocast(ranks.device, torch.float32, loop.compute_dtype):
            logits = model(ids).logits
        loss = (token_loss(logits, ids).sum(1) * weight).sum() / predicted
        # FSDP2 averages gradients over ranks, but the gradient of the batch is their sum.
        (loss * ranks.size).backward()
        total += loss.detach().double().cpu()
    return ranks.sum_(total).item()
