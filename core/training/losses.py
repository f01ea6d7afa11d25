"""Losses of each predicted token: next-token loss, or distillation from the dense model.

Distillation: for each token `(1 - mix) * next-token loss + mix * T^2 * KL(teacher || student)`.
The temperature T softens both models (Hinton et al., arXiv 1503.02531). The teacher is sharded in
the same way as the student.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from core.measures.gap import divergence
from core.measures.row_pieces import RowLosses, losses_in_pieces

NO_LABEL = -100
"""Label of a position that predicts nothing."""

TokenLosses = Callable[[Tensor, Tensor], Tensor]
"""(logits [batch, seq_len, vocab], ids [batch, seq_len]) -> losses [batch, seq_len - 1]."""


def token_losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the next-token losses in nats, [batch, seq_len - 1]."""
    # The last position predicts nothing. It gets a label that says so, because a slice of the
    # logits would copy them all.
    labels = functional.pad(ids[:, 1:], (0, 1), value=NO_LABEL)
    return losses_in_pieces(NextToken(), logits, labels)[:, :-1]


class NextToken(RowLosses):
    """Cross entropy of rows of logits and the tokens that follow."""

    def losses(self, rows: Tensor, goals: Tensor) -> Tensor:
        """Return the losses in nats, 0 where there is no label."""
        logits = rows.float()
        return functional.cross_entropy(logits, goals, ignore_index=NO_LABEL, reduction="none")


@dataclass(frozen=True)
class Distillation:
    """Loss that compares a student's logits with its teacher's."""

    teacher: PreTrainedModel
    temperature: float
    mix: float

    def __call__(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Return losses in nats, [batch, seq_len - 1]; every rank must call this equally often."""
        with torch.no_grad():
            wanted = self.teacher(ids).logits
        # The last position predicts a token that is not in the window.
        gap = divergence(logits, wanted, self.temperature)[:, :-1]
        wanted_share = gap * (self.mix * self.temperature**2)
        if self.mix == 1.0:
            return wanted_share
        return token_losses(logits, ids) * (1 - self.mix) + wanted_share
