"""Masked training between or after prune steps: pruned weights are zero after every step.

Here is the loop over next-token or distillation losses (`losses.py`). `reconstruction.py` has the
loop over blocks. `loop.py` and `optimizer.py` hold what both share, and `trainable.py` chooses the
parameters that train. Dropout is off: rounds are short, and every number then follows from (seed,
round) alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.config import Training
from core.measures.sparsity import pruned_are_zero
from core.models.blocks import prunable_matrices
from core.training.loop import FinetuneReport, Loop, Progress
from core.training.losses import Distillation, TokenLosses, token_losses
from core.training.mixed_precision import computing_in
from core.training.optimizer import MaskedAdamW
from core.training.recompute import recomputed
from core.training.reconstruction import reconstruct_
from core.training.trainable import trained


def finetune_(
    model: PreTrainedModel,
    masks: Mapping[str, Tensor],
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
            Distillation runs it in the dtype of its weights.

    Raises:
        TrainingError: the loss or the gradient is not finite, on all ranks alike.
    """
    assert all(p.dtype == torch.float32 for p in model.parameters()), "training needs fp32 weights"
    model.eval()
    if config.objective == "reconstruct":
        assert teacher is not None
        progress = reconstruct_(model, teacher, masks, batches, config, loop)
    else:
        token_loss = token_losses
        if config.distill:
            assert teacher is not None
            token_loss = Distillation(teacher, config.temperature, config.mix)
        with computing_in(model, loop.compute_dtype, loop.ranks) as trainee:
            progress = train(trainee, masks, batches, config, loop, token_loss)
    for name, matrix in prunable_matrices(model).items():
        kept = name not in masks or pruned_are_zero(matrix.parameter, matrix.cut(masks[name]))
        assert kept, f"training filled a zero of {name}"
    num_tokens = sum(batch.numel() for batch in batches)
    return FinetuneReport(num_tokens, progress.losses, progress.first)


def train(
    model: PreTrainedModel,
    masks: Mapping[str, Tensor],
    batches: tuple[Tensor, ...],
    config: Training,
    loop: Loop,
    token_loss: TokenLosses,
) -> Progress:
    """Take one optimizer step for each batch; return what was done."""
    matrices, dtype = prunable_matrices(model), loop.compute_dtype
    around = recomputed(model) if loop.recompute else nullcontext()
    with around, trained(model, matrices, masks, config, dtype) as chosen:
        optimizer = MaskedAdamW(chosen, config, loop.ranks)
        progress = Progress(loop, len(batches), model, optimizer.optimizer)
        for step in range(progress.first, len(batches)):
            loss = accumulate_gradients(model, batches[step], loop, token_loss)
            progress.add(optimizer.step(step, len(batches), loss))
            progress.save_if_due()
    return progress


def accumulate_gradients(
    model: PreTrainedModel, batch: Tensor, loop: Loop, token_loss: TokenLosses
) -> Tensor:
    """Add the gradients of the mean loss over a global batch; return this rank's part of the loss.

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
    total = torch.zeros((), dtype=torch.float64, device=ranks.device)
    pieces = zip(windows.split(loop.micro_batch), ranks.share(weights).split(loop.micro_batch))
    for ids, weight in pieces:
        ids, weight = ids.to(ranks.device), weight.to(ranks.device)
        loss = (token_loss(model(ids).logits, ids).sum(1) * weight).sum() / predicted
        # FSDP2 averages gradients over ranks, but the gradient of the batch is their sum.
        (loss * ranks.size).backward()
        total += loss.detach()
    return total
