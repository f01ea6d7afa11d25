"""Words and bytes behind evaluated tokens, so that models of different tokenizers compare.

A perplexity per token is lower the more tokens a tokenizer cuts a text into. Dividing the same
total log-likelihood by words or bytes leaves only the text: `exp(nll * tokens / words)`, with the
units of lm-evaluation-harness, whitespace-separated words and UTF-8 bytes. Which of them a token
completes follows from the character offsets that fast tokenizers give.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from core.measures.perplexity import Window
from core.texts.sources import Text, documents, joined
from core.texts.windows import document_draws


def token_counts(text: str, tokenizer: PreTrainedTokenizerBase) -> Tensor | None:
    """Words begun and bytes covered by each token of a string, [num_tokens, 2] int32.

    Columns sum to the string's words and bytes. What no token covers (whitespace that a tokenizer
    drops) counts for the next one, and for the last one at the end; special tokens cover nothing.

    Returns:
        None for a tokenizer that gives no offsets.
    """
    if not tokenizer.is_fast:
        return None
    encoded = tokenizer(
        text, verbose=False, return_attention_mask=False, return_offsets_mapping=True
    )
    offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    ends = np.maximum.accumulate(offsets[:, 1])
    ends[-1:] = len(text)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    begins = np.zeros(len(text), dtype=np.int64)
    begins[[match.start() for match in re.finditer(r"\S+", text)]] = 1
    upto = [np.concatenate([[0], np.cumsum(per_character)]) for per_character in (begins, widths)]
    counts = [np.diff(total[ends], prepend=0) for total in upto]
    return torch.from_numpy(np.stack(counts, axis=1).astype(np.int32))


def stream_counts(text: Text, tokenizer: PreTrainedTokenizerBase) -> Tensor | None:
    """`token_counts` of the tokens that `data.token_stream` gives."""
    return token_counts(joined(text), tokenizer)


def sampled_counts(
    text: Text, tokenizer: PreTrainedTokenizerBase, num_samples: int, seq_len: int, seed: int
) -> Tensor | None:
    """`token_counts` of the windows that `data.calibration_windows` draws from documents.

    A word cut by the window's first token counts for the window before the cut, if at all.
    """
    rows, found = documents(text), []
    for index, start in document_draws(text, tokenizer, num_samples, seq_len, seed):
        counts = token_counts(rows[index], tokenizer)
        if counts is None:
            return None
        found.append(counts[start : start + seq_len])
    return torch.cat(found)


def scored_units(windows: list[Window], counts: Tensor) -> tuple[int, int]:
    """Words and bytes of the tokens that an evaluation scores."""
    total = sum(
        (counts[w.end - w.num_scored : w.end].sum(0, dtype=torch.int64) for w in windows),
        torch.zeros(2, dtype=torch.int64),
    )
    return int(total[0]), int(total[1])
