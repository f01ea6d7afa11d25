"""Token ids of a string of any length, encoded in pieces if these surely give the same tokens.

A tokenizer takes twice as long for a long string as for the same string in small pieces, and it
needs about two hundred times the memory of its text. Byte-level BPE of GPT-2's kind (OPT, SmolLM2,
...) first cuts a text by a pattern. A line break before text is always a match of its own: of
white space that ends in it, the pattern takes all but this last character first, as it does at the
end of a text. So texts are cut before such a line break. Every other tokenizer gets the text whole.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from core.checks import require

if TYPE_CHECKING:  # It takes seconds, and a tokenizer that is here has been imported already.
    from transformers import PreTrainedTokenizerBase

PIECE_CHARS = 2_000
"""Smallest number of characters in a piece."""
BATCH_PIECES = 64
"""Pieces that one core encodes at a time."""
BEHIND = re.compile(r"[!-/:;=-Z\\-~]")
"""A visible character: no digit, since some tokenizers cut a text there first, and white space in
front of that cut is matched as a whole. Nor `<` and `[`, with which added tokens begin."""
CUT = re.compile(rf"(?<=[ -~\n])(?=\n{BEHIND.pattern})")
"""The place before a line break that GPT-2's pattern always matches alone."""


@dataclass(frozen=True)
class WithoutBos:
    """A tokenizer of texts that do not begin with BOS, because each window of them does."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def bos(self) -> int:
        """The id of BOS.

        Raises:
            BadInputError: the tokenizer has none.
        """
        found: Any = self.tokenizer.bos_token_id
        remedy = "its windows begin with BOS, and its tokenizer names none; save its own beside it"
        require(found is not None, "models", self.tokenizer.name_or_path, remedy)
        return found

    def num_own(self, ids: Sequence[int] | Tensor) -> int:
        """Return how many BOS the tokenizer itself put in front of a text: 0 or 1."""
        return int(len(ids) > 0 and int(ids[0]) == self.bos)


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase | WithoutBos) -> Tensor:
    """Return token ids [num_tokens], with the default special tokens once, around the whole."""
    if isinstance(tokenizer, WithoutBos):
        ids = tokenize(text, tokenizer.tokenizer)
        return ids[tokenizer.num_own(ids) :]
    pieces = cut(text) if len(text) > PIECE_CHARS and cuts_at_lines(tokenizer) else [text]
    if len(pieces) == 1:
        return torch.from_numpy(encode(text, tokenizer))
    around = special_tokens(tokenizer)
    ids = encode_pieces(pieces, tokenizer)
    return torch.from_numpy(np.concatenate([around.before, *ids, around.behind]))


@dataclass(frozen=True)
class Around:
    """The special tokens that a tokenizer puts around a text by default, int64."""

    before: np.ndarray
    behind: np.ndarray


@functools.lru_cache(maxsize=8)
def special_tokens(tokenizer: PreTrainedTokenizerBase) -> Around:
    """Return the special tokens around a text; only for tokenizers that `cuts_at_lines` knows."""
    whole, (bare,) = encode("a", tokenizer), encode_pieces(["a"], tokenizer)
    length, extra = len(bare), len(whole) - len(bare)
    begin = next(i for i in range(extra + 1) if np.array_equal(whole[i : i + length], bare))
    return Around(whole[:begin], whole[begin + length :])


def encode(text: str, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the ids that the tokenizer gives by default, int64."""
    # `verbose=False` suppresses the warning that a text is longer than the model's window.
    encoded: Any = tokenizer(text, verbose=False, return_attention_mask=False)
    return np.asarray(encoded["input_ids"], dtype=np.int64)


def encode_pieces(
    pieces: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> Iterator[np.ndarray]:
    """Yield the ids of each piece, int64, without special tokens; all cores work on them."""
    backend: Any = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()

    def encode_batch(batch: Sequence[str]) -> list[np.ndarray]:
        found = backend.encode_batch_fast(batch, add_special_tokens=False)
        return [np.asarray(each.ids, dtype=np.int64) for each in found]

    batches = (pieces[i : i + BATCH_PIECES] for i in range(0, len(pieces), BATCH_PIECES))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        yield from itertools.chain.from_iterable(threads.map(encode_batch, batches))


def cut(text: str) -> list[str]:
    """Return pieces of at least `PIECE_CHARS`, except the last; each begins where `CUT` matches."""
    pieces, start = [], 0
    while found := CUT.search(text, start + PIECE_CHARS):
        pieces.append(text[start : found.start()])
        start = found.start()
    return [*pieces, text[start:]]


@functools.lru_cache(maxsize=8)
def cuts_at_lines(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True if a tokenizer surely treats the text before and after a `CUT` separately."""
    if not tokenizer.is_fast:
        return False
    backend: Any = tokenizer.backend_tokenizer
    parts = json.loads(backend.to_str())
    before = parts["pre_tokenizer"] or {}
    *digits, last = before.get("pretokenizers", [before])
    return (
        parts["normalizer"] is None
        and parts["model"]["type"] == "BPE"
        and all(part.get("type") == "Digits" for part in digits)
        and last.get("type") == "ByteLevel"
        and last.get("use_regex", True)
        and not last["add_prefix_space"]
        and not any(
            token["lstrip"]
            or token["rstrip"]
            or token["single_word"]
            or may_be_cut(token["content"])
            for token in parts["added_tokens"]
        )
    )


def may_be_cut(token: str) -> bool:
    """Return True if a `CUT` may lie within an added token, or its line break right before one."""
    return "\n" in token or BEHIND.match(token) is not None
