"""Perplexity of a causal language model on a stream of tokens.

`exp(sum(mean_nll * num_scored) / sum(num_scored))` over windows. By default windows do not overlap
and an incomplete tail is dropped, as in the SparseGPT code. With a stride below the window, only
tokens not scored before count (the Hugging Face guide to fixed-length models).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from core.activations import Activations
from core.checks import require
from core.measures.likelihood import exponential
from core.models.blocks import prunable_blocks
from core.models.calls import logits_after
from core.models.residence import residence_of
from core.precision import autocast
from core.ranks import Ranks
from core.texts.windows import Window


@dataclass(frozen=True)
class Perplexity:
    """Result of an evaluation."""

    perplexity: float
    nll: float
    """Mean negative log-likelihood, nats a token."""
    num_tokens: int
    """Tokens that counted."""
    num_windows: int


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
    """Evaluate a model on windows that the ranks share (collective); keep infinity and NaN.

    The first token of a window has no context and is never predicted; where it is BOS, it is none
    of the scored ones. The mean of a window is over its other scored tokens, and its weight is the
    number of all its scored tokens.

    Raises:
        BadInputError: there is no window.
    """
    remedy = "makes 0 windows; give a longer text, or a smaller --eval.seq-len"
    require(bool(windows), "eval.texts", f"of {len(stream)} tokens", remedy)
    model.eval()
    batches = batched(windows, micro_batch)
    # The sum stays on the device, so that the host waits for it once, at the end.
    nll_sum, num_tokens = torch.zeros((), dtype=torch.float64, device=ranks.device), 0
    mine = ranks.turns(batches)
    tokens = [torch.stack([window.ids(stream) for window in batch]) for batch, _ in mine]
    outputs = forward(model, tokens, ranks, compute_dtype)
    for (batch, counted), (ids, logits) in zip(mine, outputs):
        if counted:
            for window, row, target in zip(batch, logits, ids):
                nll_sum += weighted_nll(window, row, target)
                num_tokens += window.num_scored
    count = torch.tensor(num_tokens, dtype=torch.float64, device=ranks.device)
    whole_sum, num_tokens = ranks.sum_(torch.stack((nll_sum, count))).tolist()
    nll = whole_sum / num_tokens
    return Perplexity(exponential(nll), nll, int(num_tokens), len(windows))


def forward(
    model: PreTrainedModel, batches: list[Tensor], ranks: Ranks, compute_dtype: torch.dtype | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the tokens and logits of each batch: block after block where weights are streamed."""
    place, dtype = residence_of(model), next(model.parameters()).dtype
    run = functools.partial(autocast, ranks.device, dtype, compute_dtype or dtype)
    if not place.streamed:
        for batch in batches:
            ids = batch.to(ranks.device)
            with run():
                logits = model(ids).logits
            yield ids, logits
        return
    activations = Activations(model, batches, ranks, compute_dtype)
    for block in prunable_blocks(model):
        with place.opened(block.module):
            activations.advance(block)
    with place.opened(model):
        for batch, hidden in zip(batches, activations.hidden):
            ids = batch.to(ranks.device)
            with run():
                logits = logits_after(model, ids, hidden)
            yield ids, logits


def batched(windows: list[Window], micro_batch: int) -> list[list[Window]]:
    """Return runs of at most `micro_batch` neighbouring windows of equal length."""
    batches: list[list[Window]] = []
    for window in windows:
        length = window.length
        last = batches[-1] if batches else []
        if last and len(last) < micro_batch and last[0].length == length:
            last.append(window)
        else:
            batches.append([window])
    return batches


def weighted_nll(window: Window, logits: Tensor, ids: Tensor) -> Tensor:
    """Return the mean nll of the scored tokens times their number, a float32 scalar."""
    num_predicted = min(window.num_scored, len(ids) - 1)
    nll = functional.cross_entropy(logits[-num_predicted - 1 : -1].float(), ids[-num_predicted:])
    return nll * window.num_scored
