"""Perplexity of a causal LM on a stream of tokens.

`exp(sum(mean_nll * len) / sum(len))` over windows. By default windows do not overlap and an
incomplete tail is dropped, as in the SparseGPT code; with a stride below the window, only tokens
not scored before count (the Hugging Face guide to fixed-length models).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from core.measures.likelihood import exponential
from core.parallel import Ranks
from core.precision import autocast


@dataclass(frozen=True)
class Window:
    """Tokens `begin ... end` of the stream, of which the last `num_scored` count."""

    begin: int
    end: int
    num_scored: int


@dataclass(frozen=True)
class Perplexity:
    """Result of an evaluation."""

    perplexity: float
    nll: float
    """Mean negative log-likelihood, nats a token."""
    num_tokens: int
    """Tokens that counted."""
    num_windows: int


def evaluation_windows(
    num_tokens: int, seq_len: int, stride: int | None = None, max_windows: int | None = None
) -> list[Window]:
    """The windows of a protocol, in order; empty if the stream is shorter than one window."""
    if stride is None or stride == seq_len:
        count = num_tokens // seq_len
        windows = [Window(i * seq_len, (i + 1) * seq_len, seq_len) for i in range(count)]
        return windows[:max_windows]
    if num_tokens < seq_len:
        return []
    windows, scored = [], 0
    for begin in range(0, num_tokens, stride):
        end = min(begin + seq_len, num_tokens)
        windows.append(Window(begin, end, end - scored))
        scored = end
        if end == num_tokens:
            break
    return windows[:max_windows]


@torch.no_grad()
def evaluate(
    model: PreTrainedModel,
    stream: Tensor,
    windows: list[Window],
    ranks: Ranks,
    *,
    micro_batch: int = 8,
    compute_dtype: torch.dtype | None = None,
) -> Perplexity:
    """Evaluates on windows split over ranks (collective); infinity and NaN stay what they are.

    The first token of a window has no context and is never predicted: a window's mean is over the
    others, its weight the number of tokens it scores.
    """
    model.eval()
    batches: list[list[Window]] = []
    for window in windows:
        length = window.end - window.begin
        last = batches[-1] if batches else []
        if last and len(last) < micro_batch and last[0].end - last[0].begin == length:
            last.append(window)
        else:
            batches.append([window])
    dtype = next(model.parameters()).dtype
    total = torch.zeros(2, dtype=torch.float64)
    # Forward passes of sharded models are collective: every rank runs the same number of them.
    for turn in range(0, len(batches), ranks.size):
        mine = turn + ranks.rank
        counts = mine < len(batches)
        batch = batches[mine if counts else turn]
        ids = torch.stack([stream[w.begin : w.end] for w in batch]).to(ranks.device)
        with autocast(ranks.device, dtype, compute_dtype or dtype):
            logits = model(ids).logits
        if counts:
            for window, row, target in zip(batch, logits, ids):
                total += weighted_nll(window, row, target)
    nll_sum, num_tokens = ranks.sum_(total).tolist()
    nll = nll_sum / num_tokens
    return Perplexity(exponential(nll), nll, int(num_tokens), len(windows))


def weighted_nll(window: Window, logits: Tensor, ids: Tensor) -> Tensor:
    """(mean nll of the scored tokens times their number, that number), float64 on the CPU."""
    num_predicted = min(window.num_scored, len(ids) - 1)
    nll = functional.cross_entropy(logits[-num_predicted - 1 : -1].float(), ids[-num_predicted:])
    return torch.tensor([nll.item() * window.num_scored, float(window.num_scored)]).double()
