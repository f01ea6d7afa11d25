"""Words and bytes of evaluated tokens, so that models with different tokenizers can be compared.

A tokenizer that cuts a text into more tokens gives a lower perplexity per token. The same total
log-likelihood divided by words or bytes depends on the text alone: `exp(nll * tokens / words)`. The
units are those of lm-evaluation-harness: words between whitespace, and UTF-8 bytes. The character
offsets of fast tokenizers tell which words and bytes belong to a token.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from core.texts.content import documents, joined
from core.texts.sources import Text
from core.texts.tokenization import WithoutBos
from core.texts.windows import Window, document_draws


def token_counts(text: str, tokenizer: PreTrainedTokenizerBase | WithoutBos) -> Tensor | None:
    """Return the words begun and bytes covered by each token of a string, [num_tokens, 2] int32.

    The columns sum to the words and bytes of the string. Bytes that no token covers (whitespace
    that a tokenizer drops) count for the next token, or at the end for the last one. Special tokens
    cover nothing. The result is None for a tokenizer that gives no offsets.
    """
    bare = tokenizer.tokenizer if isinstance(tokenizer, WithoutBos) else tokenizer
    if not bare.is_fast:
        return None
    encoded = bare(text, verbose=False, return_attention_mask=False, return_offsets_mapping=True)
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    ends = np.maximum.accumulate(offsets[:, 1])
    ends[-1:] = len(text)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    begins = np.zeros(len(text), dtype=np.int64)
    begins[[match.start() for match in re.finditer(r"\S+", text)]] = 1
    upto = [np.concatenate([[0], np.cumsum(per_character)]) for per_character in (begins, widths)]
    counts = [np.diff(total[ends], prepend=0) for total in upto]
    own = tokenizer.num_own(encoded["input_ids"]) if isinstance(tokenizer, WithoutBos) else 0
    return torch.from_numpy(np.stack(counts, axis=1).astype(np.int32))[own:]


def stream_counts(text: Text, tokenizer: PreTrainedTokenizerBase | WithoutBos) -> Tensor | None:
    """Return the `token_counts` of the tokens of `token_stream`."""
    return token_counts(joined(text), tokenizer)


def sampled_counts(
    text: Text,
    tokenizer: PreTrainedTokenizerBase | WithoutBos,
    num_samples: int,
    seq_len: int,
    seed: int,
) -> Tensor | None:
    """Return the `token_counts` of the windows that `calibration_windows` draws from documents.

    A word that begins before the window does not count.
    """
    rows, found = documents(text), []
    for index, start in document_draws(text, tokenizer, num_samples, seq_len, seed):
        counts = token_counts(rows[index], tokenizer)
        if counts is None:
            return None
        found.append(counts[start : start + seq_len])
    return torch.cat(found)


def scored_units(windows: list[Window], counts: Tensor) -> tuple[int, int]:
    """Return the words and bytes of the tokens that an evaluation scores."""
    total = sum(
        (counts[w.end - w.num_scored : w.end].sum(0, dtype=torch.int64) for w in windows),
        torch.zeros(2, dtype=torch.int64),
    )
    return int(total[0]), int(total[1])
