"""Token windows of exact length for calibration, training and evaluation, never padded.

The texts come from `sources.py` and `content.py`. A document or a stream is tokenized as one string
with the tokenizer's default special tokens, so these stand once, at its start. Calibration and
training windows follow from a seed.

Some families need BOS at the start of each window (`models/families.py`). Their texts are read by
`WithoutBos`, in windows of one token less, and `begun` puts BOS in front of each.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from core.checks import require
from core.config import Sampling
from core.texts.content import documents, joined
from core.texts.named_texts import TextName
from core.texts.sources import Text
from core.texts.tokenization import WithoutBos, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@functools.lru_cache(maxsize=8)
def token_stream(text: Text, tokenizer: PreTrainedTokenizerBase | WithoutBos) -> Tensor:
    """Return all tokens of the joined text [num_tokens], cached for the same two objects."""
    return tokenize(joined(text), tokenizer)


def default_sampling(text: Text) -> Sampling:
    """Return the original loaders' rule: documents of C4, the stream of everything else."""
    return "documents" if TextName.parse(text.name).short == "c4" else "stream"


def calibration_windows(
    text: Text,
    tokenizer: PreTrainedTokenizerBase | WithoutBos,
    num_samples: int,
    seq_len: int,
    sampling: Sampling | None,
    seed: int,
) -> Tensor:
    """Return random windows to observe layer inputs on, drawn as in the SparseGPT code.

    Args:
        text: the calibration text.
        tokenizer: the model's.
        num_samples: number of windows.
        seq_len: tokens in a window.
        sampling: `documents` draws a document until one is longer than the window, then a window
            of it; `stream` draws windows of the joined text, which may overlap; None means
            `default_sampling`.
        seed: of Python's `random.Random`, whose draws have the original's order.

    Returns:
        Token ids [num_samples, seq_len].

    Raises:
        BadInputError: the text is too short for a single window; the message says how long it is.
    """
    if (sampling or default_sampling(text)) == "documents":
        rows = documents(text)
        windows = [
            tokenize(rows[index], tokenizer)[start : start + seq_len]
            for index, start in document_draws(text, tokenizer, num_samples, seq_len, seed)
        ]
        return torch.stack(windows)
    stream = token_stream(text, tokenizer)
    remedy = (
        f"its {len(stream):,} tokens are not more than a window of {seq_len}; give a longer text "
        f"or lower --{_section(text)}.seq-len"
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
    draw = random.Random(seed)
    starts = [draw.randint(0, len(stream) - seq_len - 1) for _ in range(num_samples)]
    return torch.stack([stream[start : start + seq_len] for start in starts])


@functools.lru_cache(maxsize=8)
def document_draws(
    text: Text, tokenizer: PreTrainedTokenizerBase | WithoutBos, count: int, seq_len: int, seed: int
) -> tuple[tuple[int, int], ...]:
    """Return (document, first token) of each window that `sampling="documents"` draws."""
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
            continue
        misses += 1
        if not draws and misses == len(rows):
            # Draws that only miss would never end, so look at all documents once.
            _require_longer_document(text, max(map(length, range(len(rows)))), seq_len)
    return tuple(draws)


def _require_longer_document(text: Text, longest: int, seq_len: int) -> None:
    """Refuse a text without a document of more than `seq_len` tokens."""
    remedy = (
        f"none of its {len(documents(text)):,} documents is longer than a window of {seq_len} "
        f"tokens, the longest has {longest}; lower --{_section(text)}.seq-len"
    )
    if text.role == "calibration":
        remedy += " or set --calibration.sampling stream"
    require(longest > seq_len, text.flag, text.name, remedy)


def _section(text: Text) -> str:
    """Return the group of flags that the text's flag belongs to, such as `calibration`."""
    return text.flag.partition(".")[0]


def training_windows(
    stream: Tensor, num_windows: int, seq_len: int, seed: int, round_index: int
) -> Tensor:
    """Return packed windows for one round of fine-tuning, in training order.

    Args:
        stream: token ids [num_tokens].
        num_windows: number of windows.
        seq_len: tokens in a window.
        seed: the cell's.
        round_index: the round of the branch; each round has its own order.

    Returns:
        Token ids [num_windows, seq_len].

    Raises:
        BadInputError: the text is shorter than one window.
    """
    starts = training_starts(len(stream), num_windows, seq_len, seed, round_index)
    return windows_at(stream, starts, seq_len)


def training_starts(
    num_tokens: int, num_windows: int, seq_len: int, seed: int, round_index: int
) -> Tensor:
    """Return the first token of each window of `training_windows`, [num_windows].

    The windows pass over the text as often as needed. Each pass cuts the text into windows from a
    random offset on and shuffles them, so no token is seen twice in a pass. The first windows are
    the same for any `num_windows`.
    """
    remedy = f"the text makes 0 windows of {seq_len} tokens; give a longer text or shorter windows"
    require(num_tokens >= seq_len, "finetune.text", f"of {num_tokens} tokens", remedy)
    digest = hashlib.sha256(f"{seed}:{round_index}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    passes: list[Tensor] = [torch.empty(0, dtype=torch.long)]
    missing = num_windows
    while missing > 0:
        # The offset leaves room for at least one window.
        offsets = min(seq_len, num_tokens - seq_len + 1)
        offset = int(torch.randint(offsets, (1,), generator=generator))
        count = (num_tokens - offset) // seq_len
        order = torch.randperm(count, generator=generator)[:missing]
        passes.append(offset + order * seq_len)
        missing -= len(order)
    return torch.cat(passes)


def windows_at(stream: Tensor, starts: Tensor, seq_len: int) -> Tensor:
    """Return the windows of a stream that begin at `starts`, [len(starts), seq_len]."""
    return stream[starts[:, None] + torch.arange(seq_len)]


def begun(windows: Tensor, bos: int) -> Tensor:
    """Return windows [count, seq_len - 1] with BOS in front of each, [count, seq_len]."""
    return functional.pad(windows, (1, 0), value=bos)


@dataclass(frozen=True)
class Window:
    """Tokens `begin` to `end` of a stream for evaluation; the last `num_scored` of them count."""

    begin: int
    end: int
    num_scored: int
    bos: int | None = None
    """A token in front of them that does not count."""

    @property
    def length(self) -> int:
        """Tokens that the model reads."""
        return self.end - self.begin + (self.bos is not None)

    def ids(self, stream: Tensor) -> Tensor:
        """Return the tokens that the model reads, [length]."""
        ids = stream[self.begin : self.end]
        return ids if self.bos is None else begun(ids, self.bos)


def evaluation_windows(
    num_tokens: int,
    seq_len: int,
    stride: int | None = None,
    max_windows: int | None = None,
    bos: int | None = None,
) -> list[Window]:
    """Return the windows that a protocol evaluates on, in order.

    Without a stride, windows lie side by side and an incomplete tail is dropped. With a stride
    below the window, only tokens not scored before count. A stream shorter than one window has
    none. With BOS each window is BOS and the next `seq_len - 1` tokens of a stream without it.
    """
    width = seq_len - (bos is not None)
    if stride in (None, seq_len, width):
        count = num_tokens // width
        windows = [Window(i * width, (i + 1) * width, width, bos) for i in range(count)]
        return windows[:max_windows]
    if num_tokens < width:
        return []
    windows, scored = [], 0
    for begin in range(0, num_tokens, stride):
        end = min(begin + width, num_tokens)
        windows.append(Window(begin, end, end - scored, bos))
        scored = end
        if end == num_tokens:
            break
    return windows[:max_windows]
