"""Masked training between or after prune steps: pruned weights are zero after every step.

Gradients are masked before clipping and the optimizer step. From then on a pruned weight has zero
gradient, zero Adam moments and zero decay, so it stays exactly zero without touching the weights.
Dropout is off: rounds are short, and every number then follows from (seed, round) alone.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from core.checkpoint import load_training_, save_training
from core.config import FinetuneConfig
from core.parallel import Ranks, local, shard_like
from core.precision import autocast
from core.sparsity import Masks, linears_by_name, pruned_are_zero

BETAS = (0.9, 0.95)

SaveCheckpoint = Callable[[int, Callable[[Path], None]], None]
"""Called with (steps done, write) when it is time to save; calls write(directory) on each rank."""
Report = Callable[[int, int, float], None]
"""Called with (steps done, steps, loss) after each step."""


class TrainingError(ArithmeticError):
    """Training that cannot go on; the message is one line and names what to try."""


@dataclass(frozen=True)
class FinetuneReport:
    """What a round of training did."""

    num_tokens: int
    """Tokens trained on, windows times their length."""
    losses: list[float]
    """Mean training loss (nats a token) of every step since this process began the round."""
    steps_resumed: int
    """Steps that an earlier process had done."""


def num_windows(tokens: int, seq_len: int) -> int:
    """Whole windows within a token budget."""
    return tokens // seq_len


def learning_rate(step: int, num_steps: int, config: FinetuneConfig) -> float:
    """Linear warm-up over `warmup_frac` of the steps, then linear decay towards zero."""
    warmup = max(1, round(config.warmup_frac * num_steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * (num_steps - step) / max(1, num_steps - warmup + 1)


def finetune_(
    model: PreTrainedModel,
    masks: Masks,
    windows: Tensor,
    config: FinetuneConfig,
    ranks: Ranks,
    *,
    batch_windows: int,
    micro_batch: int = 8,
    compute_dtype: torch.dtype = torch.float32,
    resume_from: Path | None = None,
    save_checkpoint: SaveCheckpoint | None = None,
    save_every_seconds: float = 60.0,
    report: Report | None = None,
) -> FinetuneReport:
    """Trains all parameters in place on `windows`, once through; collective over ranks.

    Args:
        model: float32 weights, sharded by `parallel.shard_` where there are several ranks.
        masks: full masks; an empty dict trains the dense model.
        windows: [num_windows, seq_len] tokens in training order, the same on every rank.
        config: learning rate and the like.
        ranks: this process among the others.
        batch_windows: windows an optimizer step over all ranks together; the last may have fewer.
        micro_batch: windows a forward pass on one rank.
        compute_dtype: autocast dtype of forward and backward passes.
        resume_from: directory that a checkpoint was written to.
        save_checkpoint: stores what `write(directory)` writes.
        save_every_seconds: least time between two checkpoints.
        report: progress.

    Raises:
        TrainingError: the loss or the gradient is not finite, on all ranks alike.
    """
    assert all(p.dtype == torch.float32 for p in model.parameters()), "training needs fp32 weights"
    model.eval()
    params = [p for p in model.parameters() if p.requires_grad]
    shards = mask_shards(model, masks)
    optimizer = torch.optim.AdamW(
        params, lr=config.lr, betas=BETAS, weight_decay=config.weight_decay
    )
    first = 0 if resume_from is None else load_training_(resume_from, model, optimizer)
    batches = windows.split(batch_windows)
    losses, saved = [], time.monotonic()
    for step in range(first, len(batches)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(batches), config)
        loss = accumulate_gradients(model, batches[step], ranks, micro_batch, compute_dtype)
        for param, mask in shards:
            assert param.grad is not None
            local(param.grad).mul_(mask)
        norm = torch.nn.utils.clip_grad_norm_(params, config.clip_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # pyright: ignore
        if not math.isfinite(loss) or not math.isfinite(norm.item()):
            raise TrainingError(
                f"loss {loss:g} with gradient norm {norm.item():g} at step {step + 1}; "
                f"try --finetune.lr {config.lr / 10:g}"
            )
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
        if report is not None:
            report(step + 1, len(batches), loss)
        due = time_to_save(ranks, saved, save_every_seconds) if save_checkpoint else False
        if save_checkpoint is not None and due and step + 1 < len(batches):
            write = functools.partial(
                save_training, model=model, optimizer=optimizer, step=step + 1, ranks=ranks
            )
            save_checkpoint(step + 1, write)
            saved = time.monotonic()
    assert all(pruned_are_zero(param, mask) for param, mask in shards), "training filled a zero"
    return FinetuneReport(windows.numel(), losses, first)


def mask_shards(model: PreTrainedModel, masks: Masks) -> list[tuple[Tensor, Tensor]]:
    """Each masked parameter with this rank's part of its mask, cut exactly as the parameter is."""
    linears = linears_by_name(model)
    return [
        (
            linears[name].weight,
            shard_like(mask.to(linears[name].weight.device), linears[name].weight),
        )
        for name, mask in masks.items()
    ]


def accumulate_gradients(
    model: PreTrainedModel, batch: Tensor, ranks: Ranks, micro_batch: int, dtype: torch.dtype
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
        nll = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
        )
        loss = (nll.view(len(ids), -1).sum(1) * weight).sum() / predicted
        # FSDP2 averages gradients over ranks; the batch's gradient is their sum.
        (loss * ranks.size).backward()
        total += loss.detach().double().cpu()
    return ranks.sum_(total).item()


def time_to_save(ranks: Ranks, since: float, every: float) -> bool:
    """Rank 0's clock decides for all, because saving is collective."""
    due = torch.tensor([float(ranks.rank == 0 and time.monotonic() - since >= every)])
    return bool(ranks.sum_(due).item())
