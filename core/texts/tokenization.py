"""Token ids of a string of any length, encoded in pieces if these surely give the same tokens.

A tokenizer uses one core for one string and needs about two hundred times the memory of its text.
Byte-level BPE of GPT-2's kind (OPT, SmolLM2, ...) first cuts a text by a pattern. A single line
break between visible characters always becomes a piece of its own. So texts are cut there, and the
pieces are encoded at the same time. Every other tokenizer gets the text whole.
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
"""Smallest number of characters in a piece."""
CUT = re.compile(r"(?<=[!-~])\n(?=[0-9A-Za-z])")
"""A line break that GPT-2's pattern always matches alone."""


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return token ids [num_tokens], with the default special tokens once, around the whole."""
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
    """Return the ids that the tokenizer gives by default, int64."""
    # `verbose=False` suppresses the warning that a text is longer than the model's window.
    encoded: Any = tokenizer(text, verbose=False, return_attention_mask=False)
    return np.asarray(encoded["input_ids"], dtype=np.int64)


def bare_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Return the ids without special tokens; several threads may call it at the same time."""
    backend: Any = tokenizer.backend_tokenizer
    return np.asarray(backend.encode(text, add_special_tokens=False).ids, dtype=np.int64)


def cut(text: str) -> list[str]:
    """Return pieces of at least `PIECE_CHARS`; all but the last keep the line break at the end."""
    pieces, start = [], 0
    while found := CUT.search(text, start + PIECE_CHARS):
        pieces.append(text[start : found.end()])
        start = found.end()
    return [*pieces, text[start:]]


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
            token["lstrip"] or token["rstrip"] or token["single_word"] or "\n" in token["content"]
            for token in parts["added_tokens"]
        )
    )
