"""The gap to the dense model: the divergence of a model's predictions from the dense model's.

`mean over tokens of KL(dense || model)`, in nats a token. It is zero for the dense model, and about
the rise of the loss on text that the dense model predicts well.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from core.measures.perplexity import forward
from core.measures.row_pieces import RowLosses, gradient_through, losses_in_pieces
from core.ranks import Ranks


@torch.no_grad()
def mean_gap(
    model: PreTrainedModel,
    dense: PreTrainedModel,
    windows: Tensor,
    ranks: Ranks,
    *,
    micro_batch: int = 8,
) -> float:
    """Return the gap on windows [num_windows, seq_len] that the ranks share (collective).

    Both models compute in the dtype of the dense model's weights, so that the dense model itself
    has no gap. The last position of a window counts too: nothing is predicted that must be known.
    """
    batches = windows.split(max(1, min(micro_batch, -(-len(windows) // ranks.size))))
    mine, counts = zip(*ranks.turns(batches), strict=True)
    dtype = next(dense.parameters()).dtype
    total = torch.zeros((), dtype=torch.float64, device=ranks.device)
    outputs = (forward(one.eval(), [*mine], ranks, dtype) for one in (model, dense))
    for counted, (_, ours), (_, wanted) in zip(counts, *outputs, strict=True):
        if counted:
            total += divergence(ours, wanted).double().sum()
    return ranks.sum_(total).item() / windows.numel()


def divergence(logits: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(wanted || logits) of each position in nats, [batch, seq_len].

    The temperature softens both, [batch, seq_len, vocab]; no gradient reaches `wanted`.
    """
    return losses_in_pieces(Divergence(temperature), logits, wanted)


@dataclass(frozen=True)
class Divergence(RowLosses):
    """KL divergence of rows of softened logits from others."""

    temperature: float

    def losses(self, rows: Tensor, goals: Tensor) -> Tensor:
        """Return KL(goals || rows) of each row."""
        ours, theirs = self.log_probabilities(rows), self.log_probabilities(goals)
        return functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)

    def gradient(self, rows: Tensor, goals: Tensor, given: Tensor) -> Tensor:
        """Return what autograd would, without the divergence itself, which takes half of the time.

        The divergence's derivative by our log-probabilities is minus their probabilities.
        """
        theirs = self.log_probabilities(goals).exp_().mul_(-given[:, None])
        return gradient_through(self.log_probabilities, rows, theirs)

    def log_probabilities(self, rows: Tensor) -> Tensor:
        """Return the logarithms of the probabilities, in float32."""
        rows = rows.float()
        return (rows if self.temperature == 1.0 else rows / self.temperature).log_softmax(-1)
