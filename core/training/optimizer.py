"""What every objective trains with: AdamW under masks, its schedule, and what a round reports.

Gradients are masked before clipping and the optimizer step. From then on a pruned weight has zero
gradient, zero Adam moments and zero decay, so it stays exactly zero without touching the weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.config import FinetuneConfig
from core.parallel import Ranks, compute_device, local, whole
from core.training.trainable import Trained

BETAS = (0.9, 0.95)
NO_LABEL = -100
"""In place of a token that is not to be predicted."""

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
    """Mean training loss of every step since this process began the round: nats a token, or the
    relative squared error where blocks are reconstructed."""
    steps_resumed: int
    """Steps that an earlier process had done."""


def learning_rate(step: int, num_steps: int, config: FinetuneConfig) -> float:
    """Linear warm-up over `warmup_frac` of the steps, then linear decay towards zero."""
    (peak,) = config.lrs
    warmup = max(1, round(config.warmup_frac * num_steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (num_steps - step) / max(1, num_steps - warmup + 1)


class MaskedAdamW:
    """AdamW on what trains, sharded and whole parameters alike; every rank takes the same step."""

    def __init__(self, trained: Trained, config: FinetuneConfig, ranks: Ranks) -> None:
        self.trained, self.config, self.ranks = trained, config, ranks
        # A group each: torch's fused loops do not mix sharded and whole tensors.
        groups = [{"params": params} for params in (trained.sharded, trained.whole) if params]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=config.lrs[0],
            betas=BETAS,
            weight_decay=config.weight_decay,
            # On CPUs the roots of the other loops are six times slower at zero, as half of all are.
            fused=True,
        )

    def step(self, index: int, num_steps: int, loss: float) -> None:
        """One step on the gradients that are there, which it clears (collective).

        Raises:
            TrainingError: the loss or the gradient is not finite, on all ranks alike.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(index, num_steps, self.config)
        for param in self.trained.whole:
            assert param.grad is not None
            # FSDP2 averages over ranks; so does this, and the loss makes up for it.
            self.ranks.sum_(param.grad).div_(self.ranks.size)
        for param, mask in self.trained.masks:
            assert param.grad is not None
            local(param.grad).mul_(mask)
        norm = self.clip()
        if not math.isfinite(loss) or not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise TrainingError(
                f"loss {loss:g} with gradient norm {norm:g} at step {index + 1}; "
                f"try --finetune.lr {self.config.lrs[0] / 10:g}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()

    def clip(self) -> float:
        """Scales all gradients to a joint norm of at most `clip_norm`; returns the norm before."""
        norms = []
        for params in (self.trained.sharded, self.trained.whole):
            grads = [param.grad for param in params if param.grad is not None]
            if grads and local(grads[0]).device.type == compute_device(grads[0]).type:
                norms.append(whole(torch.nn.utils.get_total_norm(grads)))
            elif grads:
                # Shards in host memory: DTensor would sum over ranks where they lie.
                square = torch.nn.utils.get_total_norm([local(g) for g in grads]).square()
                norms.append(self.ranks.sum_(square).sqrt())
        total = norms[0] if len(norms) == 1 else torch.stack([n.cpu() for n in norms]).norm()
        for params in (self.trained.sharded, self.trained.whole):
            if params:
                torch.nn.utils.clip_grads_with_norm_(params, self.config.clip_norm, total)
        return total.item()


def time_to_save(ranks: Ranks, since: float, every: float) -> bool:
    """Rank 0's clock decides for all, because saving is collective."""
    due = torch.tensor([float(ranks.rank == 0 and time.monotonic() - since >= every)])
    return bool(ranks.sum_(due).item())


def token_losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Next-token losses in nats, [batch, seq_len - 1]."""
    # The last position predicts nothing. A label says so, since slicing would copy all logits.
    labels = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=NO_LABEL)
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=NO_LABEL, reduction="none"
    )
    return nll.view(len(ids), -1)[:, :-1]
