"""Distillation: the student also learns from the dense model's predictions.

For each token `(1 - mix) * next-token loss + mix * T^2 * KL(teacher || student)`, both softened by
the temperature T (Hinton et al., arXiv 1503.02531). The teacher is sharded like the student.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from core.parallel import Ranks
from core.precision import autocast
from core.training.optimizer import token_losses


@dataclass(frozen=True)
class Distillation:
    """The loss of a student's logits beside its teacher's."""

    teacher: PreTrainedModel
    temperature: float
    mix: float
    ranks: Ranks
    dtype: torch.dtype
    """Of the teacher's forward passes."""

    def __call__(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Losses in nats, [batch, seq_len - 1]; every rank calls it equally often."""
        with torch.no_grad():
            stored = next(self.teacher.parameters()).dtype
            with autocast(self.ranks.device, stored, self.dtype):
                wanted = self.teacher(ids).logits
        # The last position predicts a token that is not in the window.
        soft = [
            logits[:, :-1].float() / self.temperature,
            wanted[:, :-1].float() / self.temperature,
        ]
        ours, theirs = (each.log_softmax(-1) for each in soft)
        divergence = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
        plain = token_losses(logits, ids)
        return plain * (1 - self.mix) + divergence * (self.mix * self.temperature**2)
