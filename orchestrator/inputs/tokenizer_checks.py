"""Checks of a model's tokenizer against its embedding, before any token reaches the model."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from core.checks import require
from core.models.facts import ModelFacts
from core.models.sources import ModelSource
from core.models.tokenizers import load_tokenizer

logger = logging.getLogger(__name__)


def fitting_tokenizer(source: ModelSource, facts: ModelFacts) -> Any:
    """Return the tokenizer of a model; refuse one whose ids the embedding has no rows for.

    Tokens that were added to the vocabulary may lie beyond: a text holds them only if a user wrote
    them, or if they stand at its start (`require_known_ids`).
    """
    tokenizer: Any = load_tokenizer(source)
    rows = facts.vocab_size
    added = tokenizer.get_added_vocab()
    ids = [index for token, index in tokenizer.get_vocab().items() if token not in added]
    largest = max(ids, default=0)
    remedy = (
        f"its tokenizer gives ids up to {largest}, but its embedding has {rows} rows; save the "
        "model's own tokenizer beside it"
    )
    require(largest < rows, "models", source.name, remedy)
    if 2 * len(tokenizer) < rows:
        told = "--models %s: its tokenizer has %d tokens, and its embedding %d rows; is it its own?"
        logger.warning(told, source.name, len(tokenizer), rows)
    return tokenizer


def require_known_ids(facts: ModelFacts, ids: Tensor, tokenizer: Any) -> None:
    """Refuse tokens of a text that the embedding has no rows for."""
    largest = int(ids.max())
    remedy = (
        f"its tokenizer gives id {largest} ({tokenizer.convert_ids_to_tokens(largest)!r}) in "
        f"a text, but its embedding has {facts.vocab_size} rows; save the model's own tokenizer "
        "beside it"
    )
    require(largest < facts.vocab_size, "models", facts.name, remedy)
