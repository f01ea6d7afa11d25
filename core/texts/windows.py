"""Token windows of exact length from text sources, seeded and never padded.

Sources and their rows are in `texts.py`, whose names are offered here too. A document or a stream
is tokenized as one string with the tokenizer's default special tokens, so these stand once, at
its start.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import random

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from core.checks import require
from core.config import Sampling
from core.texts.named_texts import TextName
from core.texts.sources import Text, documents, joined
from core.texts.tokenization import tokenize

logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=8)
def token_stream(text: Text, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """All tokens of the joined text [num_tokens], kept for the next call with the same objects."""
    return tokenize(joined(text), tokenizer)


def default_sampling(text: Text) -> Sampling:
    """The original loaders' rule: documents of C4, the stream of everything else."""
    return "documents" if TextName.parse(text.name).short == "c4" else "stream"


def calibration_windows(
    text: Text,
    tokenizer: PreTrainedTokenizerBase,
    num_samples: int,
    seq_len: int,
    sampling: Sampling | None,
    seed: int,
) -> Tensor:
    """Random windows to observe layer inputs on, drawn as the SparseGPT code draws them.

    Args:
        text: the calibration text.
        tokenizer: the model's.
        num_samples: number of windows.
        seq_len: tokens a window.
        sampling: `documents` draws a document until one is longer than the window, then a window
            of it; `stream` draws windows of the joined text, which may overlap; None is
            `default_sampling`.
        seed: of Python's `random.Random`, whose draws come in the original's order.

    Returns:
        Token ids [num_samples, seq_len].

    Raises:
        ValueError: too little text for a single window, saying how much there is.
    """
    if (sampling or default_sampling(text)) == "documents":
        rows = documents(text)
        windows = [
            tokenize(rows[index], tokenizer)[start : start + seq_len]
            for index, start in document_draws(text, tokenizer, num_samples, seq_len, seed)
        ]
        return torch.stack(windows)
    draw = random.Random(seed)
    stream = token_stream(text, tokenizer)
    remedy = (
        f"its {len(stream):,} tokens are not more than a window of {seq_len}; give a longer text "
        f"or lower --{text.flag.partition('.')[0]}.seq-len"
    )
    require(len(stream) > seq_len, text.flag, text.name, remedy)
    disjoint = len(stream) // seq_len
    if disjoint < num_samples:
        # The original draws them all the same, so this is no error.
        logger.warning(
            "--%s %s: %d windows are drawn from %d tokens, which are %d windows side by side, so "
            "they overlap",
            text.flag,
            text.name,
            num_samples,
            len(stream),
            disjoint,
        )
    starts = [draw.randint(0, len(stream) - seq_len - 1) for _ in range(num_samples)]
    return torch.stack([stream[start : start + seq_len] for start in starts])


@functools.lru_cache(maxsize=8)
def document_draws(
    text: Text, tokenizer: PreTrainedTokenizerBase, count: int, seq_len: int, seed: int
) -> tuple[tuple[int, int], ...]:
    """(document, first token) of each window that `sampling="documents"` draws."""
    draw, rows = random.Random(seed), documents(text)
    require(len(rows) > 0, text.flag, text.name, "holds no documents; give one with text")

    @functools.cache
    def length(index: int) -> int:
        return len(tokenize(rows[index], tokenizer))

    draws, misses = [], 0
    while len(draws) < count:
        index = draw.randint(0, len(rows) - 1)
        if length(index) > seq_len:
            draws.append((index, draw.randint(0, length(index) - seq_len - 1)))
        elif not draws:
            misses += 1
            if misses == len(rows):
                # As many misses as documents: look at all of them before drawing for ever.
                longest = max(map(length, range(len(rows))))
                section = text.flag.partition(".")[0]
                remedy = (
                    f"none of its {len(rows):,} documents is longer than a window of {seq_len} "
                    f"tokens, the longest has {longest}; lower --{section}.seq-len"
                )
                if text.role == "calibration":
                    remedy += " or set --calibration.sampling stream"
                require(longest > seq_len, text.flag, text.name, remedy)
    return tuple(draws)


def training_windows(
    stream: Tensor, num_windows: int, seq_len: int, seed: int, round_index: int
) -> Tensor:
    """Packed windows for one round of fine-tuning, in training order.

    The text is passed over as often as needed. Each pass cuts it into windows from a random
    offset on and shuffles them, so no token is seen twice in a pass. The first windows are the
    same however many are asked for.

    Args:
        stream: token ids [num_tokens].
        num_windows: number of windows.
        seq_len: tokens a window.
        seed: the cell's.
        round_index: the round of the branch; each has an order of its own.

    Returns:
        Token ids [num_windows, seq_len].

    Raises:
        ValueError: the text is shorter than one window.
    """
    remedy = f"the text makes 0 windows of {seq_len} tokens; give a longer text or shorter windows"
    require(len(stream) >= seq_len, "finetune.text", f"of {len(stream)} tokens", remedy)
    digest = hashlib.sha256(f"{seed}:{round_index}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    passes: list[Tensor] = []
    missing = num_windows
    while missing > 0:
        # The offset leaves room for at least one window.
        offsets = min(seq_len, len(stream) - seq_len + 1)
        offset = int(torch.randint(offsets, (1,), generator=generator))
        count = (len(stream) - offset) // seq_len
        windows = stream[offset : offset + count * seq_len].view(count, seq_len)
        order = torch.randperm(count, generator=generator)[:missing]
        passes.append(windows[order])
        missing -= len(order)
    return torch.cat(passes) if passes else stream.new_empty(0, seq_len)
