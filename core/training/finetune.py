"""Masked training between or after prune steps: pruned weights are zero after every step.

The round's loop over next-token or distillation losses; `reconstruct.py` has the one over blocks,
`training.py` what both share, `trainable.py` which parameters train. Dropout is off: rounds are
short, and every number then follows from (seed, round) alone.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.config import FinetuneConfig
from core.measures.sparsity import linears_by_name, pruned_are_zero
from core.models.masks import Masks
from core.parallel import Ranks
from core.precision import autocast
from core.training.checkpoints import load_training_, save_training
from core.training.distillation import Distillation
from core.training.optimizer import (
    FinetuneReport,
    MaskedAdamW,
    Report,
    SaveCheckpoint,
    time_to_save,
    token_losses,
)
from core.training.recompute import recomputed
from core.training.reconstruction import reconstruct_
from core.training.trainable import mask_shards, trained

TokenLosses = Callable[[Tensor, Tensor], Tensor]
"""(logits [batch, seq_len, vocab], ids [batch, seq_len]) -> losses [batch, seq_len - 1]."""


def num_windows(tokens: int, seq_len: int) -> int:
    """Whole windows within a token budget."""
    return tokens // seq_len


def finetune_(
    model: PreTrainedModel,
    masks: Masks,
    windows: Tensor,
    config: FinetuneConfig,
    ranks: Ranks,
    *,
    batch_windows: int,
    teacher: PreTrainedModel | None = None,
    micro_batch: int = 8,
    compute_dtype: torch.dtype = torch.float32,
    recompute: bool = False,
    resume_from: Path | None = None,
    save_checkpoint: SaveCheckpoint | None = None,
    save_every_seconds: float = 60.0,
    report: Report | None = None,
) -> FinetuneReport:
    """Trains in place on `windows`, once through; collective over ranks.

    Args:
        model: float32 weights, sharded by `parallel.shard_` where there are several ranks.
        masks: full masks; an empty dict trains the dense model.
        windows: [num_windows, seq_len] tokens in training order, the same on every rank.
        config: objective, what trains, one learning rate and the like.
        ranks: this process among the others.
        batch_windows: windows an optimizer step over all ranks together; the last may have fewer.
        teacher: the dense model, sharded alike, where the objective asks for it.
        micro_batch: windows a forward pass on one rank.
        compute_dtype: autocast dtype of forward and backward passes.
        recompute: run each block's forward again in the backward pass instead of keeping it.
        resume_from: directory that a checkpoint was written to.
        save_checkpoint: stores what `write(directory)` writes.
        save_every_seconds: least time between two checkpoints.
        report: progress.

    Raises:
        TrainingError: the loss or the gradient is not finite, on all ranks alike.
    """
    assert all(p.dtype == torch.float32 for p in model.parameters()), "training needs fp32 weights"
    model.eval()
    linears = linears_by_name(model)
    shards = mask_shards(linears, masks)
    loop = {
        "micro_batch": micro_batch,
        "compute_dtype": compute_dtype,
        "resume_from": resume_from,
        "save_checkpoint": save_checkpoint,
        "save_every_seconds": save_every_seconds,
        "report": report,
    }
    batches = windows.split(batch_windows)
    if config.objective == "reconstruct":
        assert teacher is not None
        losses, first = reconstruct_(model, teacher, masks, batches, config, ranks, **loop)
    else:
        token_loss: TokenLosses = token_losses
        if config.distill:
            assert teacher is not None
            settings = config.recovery()["distill"]
            token_loss = Distillation(teacher, **settings, ranks=ranks, dtype=compute_dtype)
        around = recomputed(model) if recompute else nullcontext()
        with around, trained(model, linears, masks, config, compute_dtype) as chosen:
            optimizer = MaskedAdamW(chosen, config, ranks)
            losses, first = train(model, optimizer, batches, token_loss, **loop)
    assert all(pruned_are_zero(param, mask) for param, mask in shards), "training filled a zero"
    return FinetuneReport(windows.numel(), losses, first)


def train(
    model: PreTrainedModel,
    optimizer: MaskedAdamW,
    batches: tuple[Tensor, ...],
    token_loss: TokenLosses,
    *,
    micro_batch: int,
    compute_dtype: torch.dtype,
    resume_from: Path | None,
    save_checkpoint: SaveCheckpoint | None,
    save_every_seconds: float,
    report: Report | None,
) -> tuple[list[float], int]:
    """A step for each batch; returns the losses and the steps that were done before."""
    ranks, adam = optimizer.ranks, optimizer.optimizer
    first = 0 if resume_from is None else load_training_(resume_from, model, adam)
    losses, saved = [], time.monotonic()
    for step in range(first, len(batches)):
        loss = accumulate_gradients(
            model, batches[step], ranks, micro_batch, compute_dtype, token_loss
        )
        optimizer.step(step, len(batches), loss)
        losses.append(loss)
        if report is not None:
            report(step + 1, len(batches), loss)
        due = time_to_save(ranks, saved, save_every_seconds) if save_checkpoint else False
        if save_checkpoint is not None and due and step + 1 < len(batches):
            write = functools.partial(
                save_training, model=model, optimizer=adam, step=step + 1, ranks=ranks
            )
            save_checkpoint(step + 1, write)
            saved = time.monotonic()
    return losses, first


def accumulate_gradients(
    model: PreTrainedModel,
    batch: Tensor,
    ranks: Ranks,
    micro_batch: int,
    dtype: torch.dtype,
    token_loss: TokenLosses = token_losses,
) -> float:
    """Adds the gradients of the mean loss over a global batch; returns that loss.

    The loss is divided by the tokens of the whole batch, so neither the number of ranks nor the
    micro-batch changes it. Ranks take turns with the windows; where these do not come out even, a
    repeated window of weight zero keeps the ranks' collective calls in step.
    """
    predicted = len(batch) * (batch.shape[1] - 1)
    missing = -len(batch) % ranks.size
    weights = torch.ones(len(batch) + missing)
    weights[len(batch) :] = 0.0
    mine = ranks.share(torch.cat([batch, batch[:1].expand(missing, -1)]))
    total = torch.zeros((), dtype=torch.float64)
    for ids, weight in zip(mine.split(micro_batch), ranks.share(weights).split(micro_batch)):
        ids, weight = ids.to(ranks.device), weight.to(ranks.device)
        with autocast(ranks.device, torch.float32, dtype):
            logits = model(ids).logits
        loss = (token_loss(logits, ids).sum(1) * weight).sum() / predicted
        # FSDP2 averages gradients over ranks; the batch's gradient is their sum.
        (loss * ranks.size).backward()
        total += loss.detach().double().cpu()
    return ranks.sum_(total).item()
