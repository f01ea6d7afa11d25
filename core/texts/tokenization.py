"""Token ids of a string of any length, in pieces where these are sure to give the same tokens.

A tokenizer works on one string with one core and needs some two hundred times the memory of its
text. Byte-level BPE of GPT-2's kind (OPT, SmolLM2, ...) first cuts a text where its pattern does,
and a single line break between visible characters is always a cut of its own; so texts are cut
there and the pieces encoded side by side. Every other tokenizer gets the text whole.
"""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

PIECE_CHARS = 2**19
"""Least characters of a piece."""
CUT = re.compile(r"(?<=[!-~])\n(?=[0-9A-Za-z])")
"""A line break that GPT-2's pattern matches alone, whatever stands before and behind."""


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Token ids [num_tokens], with the default special tokens once, around the whole."""
    pieces = cut(text) if len(text) > PIECE_CHARS and cuts_at_lines(tokenizer) else [text]
    first = encode(pieces[0], tokenizer)
    if len(pieces) == 1:
        return torch.from_numpy(first)
    bare = bare_ids(pieces[0], tokenizer)
    length, extra = len(bare), len(first) - len(bare)
    begin = next(i for i in range(extra + 1) if np.array_equal(first[i : i + length], bare))
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        rest = list(threads.map(lambda piece: bare_ids(piece, tokenizer), pieces[1:]))
    end = begin + length
    return torch.from_numpy(np.concatenate([first[:end], *rest, first[end:]]))


def encode(text: str, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Ids of a string as the tokenizer gives them by default, int64."""
    # `verbose=False` leaves out the warning that a text is longer than the model's window.
    encoded: Any = tokenizer(text, verbose=False, return_attention_mask=False)
    return np.asarray(encoded["input_ids"], dtype=np.int64)


def bare_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """The same without special tokens, for several threads at a time."""
    backend: Any = tokenizer.backend_tokenizer
    return np.asarray(backend.encode(text, add_special_tokens=False).ids, dtype=np.int64)


def cut(text: str) -> list[str]:
    """Pieces of at least `PIECE_CHARS`, each but the last with the line break that ends it."""
    pieces, start = [], 0
    while found := CUT.search(text, start + PIECE_CHARS):
        pieces.append(text[start : found.end()])
        start = found.end()
    return [*pieces, text[start:]]


def cuts_at_lines(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer is known to treat what is before and behind a `CUT` apart."""
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
            token["lstrip"] or token["rstrip"] or token["single_word"] or "\n" in token["content"]
            for token in parts["added_tokens"]
        )
    )
