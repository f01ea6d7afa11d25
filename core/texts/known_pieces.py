"""Windows of the embedded training text, for which only their own pieces are tokenised.

Training draws its windows from all tokens of a text, so the place of every window depends on the
number of tokens before it. For the embedded text and tokenizer these numbers are stored, piece by
piece: a default sweep trains on 3 % of the text, and tokenises 15 % of it.
"""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from core.hub.identity import file_hash
from core.texts.content import joined
from core.texts.named_texts import EMBEDDED_DIR
from core.texts.sources import Text
from core.texts.tokenization import cut, encode_pieces, special_tokens, tokenize
from core.texts.windows import windows_at

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

COUNTS = EMBEDDED_DIR / "train.pieces.json"
"""The identity of the text, the hash of the tokenizer's file, and the tokens of each piece."""
TOKENIZER = EMBEDDED_DIR.parent / "model" / "tokenizer.json"
PARTS = ("model", "normalizer", "pre_tokenizer", "added_tokens")
"""Parts of a tokenizer's description that the ids of a piece follow from."""


@dataclass(frozen=True)
class KnownPieces:
    """A text, its tokenizer, and the number of tokens of each of its pieces."""

    text: Text
    tokenizer: PreTrainedTokenizerBase
    counts: tuple[int, ...]

    @classmethod
    def of(cls, text: Text, tokenizer: PreTrainedTokenizerBase) -> KnownPieces | None:
        """Return what is known of a text; None unless both are the embedded ones."""
        known = json.loads(COUNTS.read_text(encoding="utf-8"))
        is_text = text.identity == known["text"]
        if is_text and file_hash(TOKENIZER) == known["tokenizer"] and is_embedded(tokenizer):
            return cls(text, tokenizer, tuple(known["counts"]))
        return None

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole text."""
        around = special_tokens(self.tokenizer)
        return len(around.before) + sum(self.counts) + len(around.behind)

    def windows(self, starts: Tensor, seq_len: int) -> Tensor | None:
        """Return the windows [len(starts), seq_len] of the whole text's tokens.

        None if a piece has another number of tokens than was stored.
        """
        around, pieces = special_tokens(self.tokenizer), cut(joined(self.text))
        if len(pieces) != len(self.counts):
            return self.moved()
        begins = [*itertools.accumulate(self.counts, initial=len(around.before))]
        # Memory for all tokens costs nothing where none is written.
        stream = torch.empty(self.num_tokens, dtype=torch.long)
        stream[: begins[0]] = torch.from_numpy(around.before)
        stream[begins[-1] :] = torch.from_numpy(around.behind)
        used = self.used_pieces(starts, seq_len, torch.tensor(begins))
        for index, ids in zip(used, encode_pieces([pieces[i] for i in used], self.tokenizer)):
            if len(ids) != self.counts[index]:
                return self.moved()
            stream[begins[index] : begins[index + 1]] = torch.from_numpy(ids)
        return windows_at(stream, starts, seq_len)

    def all_tokens(self) -> Tensor:
        """Return the tokens of the whole text."""
        return tokenize(joined(self.text), self.tokenizer)

    def used_pieces(self, starts: Tensor, seq_len: int, begins: Tensor) -> list[int]:
        """Return the pieces that windows have tokens of, in order.

        Args:
            starts: first token of each window.
            seq_len: tokens in a window.
            begins: first token of each piece, and the end of the last one.
        """
        # A token of the special ones before or behind all pieces is of no piece.
        first = torch.searchsorted(begins, starts, right=True) - 1
        last = torch.searchsorted(begins, starts + seq_len)
        used = {i for a, b in zip(first.tolist(), last.tolist()) for i in range(a, b)}
        return sorted(used & set(range(len(self.counts))))

    def moved(self) -> None:
        """Tell that the stored numbers are not those of this text."""
        logger.warning("%s has not the tokens that %s says", self.text.name, COUNTS.name)


def is_embedded(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True if a tokenizer gives the same ids as the embedded model's."""
    if not tokenizer.is_fast:
        return False
    backend: Any = tokenizer.backend_tokenizer
    one, other = (
        json.loads(each.to_str()) for each in (backend, Tokenizer.from_file(str(TOKENIZER)))
    )
    return all(one[part] == other[part] for part in PARTS)


def count_pieces(text: Text, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return what `COUNTS` holds of a text and the embedded tokenizer."""
    pieces = encode_pieces(cut(joined(text)), tokenizer)
    counts = [len(ids) for ids in pieces]
    return {"text": text.identity, "tokenizer": file_hash(TOKENIZER), "counts": counts}
