"""Texts of a dry run: all are read and checked, and the tokens of evaluated ones are estimated.

Stored tokens are counted, others follow from a sample.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from core.checks import require
from core.texts.content import documents, joined
from core.texts.sources import Text
from core.texts.tokenization import tokenize
from orchestrator.inputs.models import ResolvedModel
from orchestrator.inputs.token_files import num_stored_tokens
from orchestrator.inputs.tokenizer_checks import fitting_tokenizer
from orchestrator.inputs.tokens import tokenise, tokens_id
from orchestrator.plan.inputs import Draw, EvaluationText, Reading
from orchestrator.plan.stages import Stage
from orchestrator.store.store import Store

SAMPLE_CHARS = 16_384
"""Characters at the start of a text that are tokenised; a text that is not longer is counted."""


@dataclass(frozen=True)
class NumTokens:
    """Number of tokens of a text."""

    count: int
    is_exact: bool

    def __str__(self) -> str:
        return f"{self.count:,}" if self.is_exact else f"about {float(f'{self.count:.2g}'):,.0f}"


def about_text_tokens(
    models: Iterable[ResolvedModel], stages: Iterable[Stage], store: Store
) -> dict[str, dict[EvaluationText, NumTokens]]:
    """Return the tokens of the texts that each model is evaluated on, by the model's name.

    Raises:
        ValueError: a text cannot be read, also one of calibration or training, or it is too short
            for a window.
    """
    stages, found = list(stages), {}
    for model in models:
        mine = (stage for stage in stages if stage.model == model.inputs.name)
        readings = dict.fromkeys(reading for stage in mine for reading in stage.work.readings())
        texts = [each for each in readings if isinstance(each, EvaluationText)]
        # All seeds draw from one text, which is read once.
        others = {each.text if isinstance(each, Draw) else each: each for each in readings}
        for reading in others.values():
            if not isinstance(reading, EvaluationText):
                check(model, reading, store)
        found[model.inputs.name] = {each: about_tokens(model, each, store) for each in texts}
    return found


def check(model: ResolvedModel, reading: Reading, store: Store) -> None:
    """Refuse a text of calibration or training that cannot be read; one that is short, by tokens.

    The embedded text is known to be good.
    """
    found = model.texts[reading.text.text if isinstance(reading, Draw) else reading.text]
    stored = num_stored_tokens(store, tokens_id(reading, model.source.identity))
    if stored or (found.source or "").startswith("embedded:"):
        return
    if found.path is None:
        documents(found)  # A file of the hub is too large to be read whole.
    elif len(joined(found)) <= SAMPLE_CHARS:
        tokenise(reading, model.texts, fitting_tokenizer(model.source, model.facts))


def about_tokens(model: ResolvedModel, reading: EvaluationText, store: Store) -> NumTokens:
    """Return the tokens of one text."""
    if stored := num_stored_tokens(store, tokens_id(reading, model.source.identity)):
        return NumTokens(stored, is_exact=True)
    if reading.num_samples is not None:
        return NumTokens(reading.num_samples * reading.seq_len, is_exact=True)
    tokenizer = fitting_tokenizer(model.source, model.facts)
    return estimated(model.texts[reading.text], reading.seq_len, tokenizer)


def estimated(text: Text, seq_len: int, tokenizer: Any) -> NumTokens:
    """Return the tokens of a text by those of its start; refuse one shorter than a window."""
    content = joined(text)
    size = max(SAMPLE_CHARS, 8 * seq_len)
    in_sample = len(tokenize(content[:size], tokenizer))
    is_exact = len(content) <= size
    count = in_sample if is_exact else round(in_sample * len(content) / size)
    remedy = f"has {count} tokens, 0 windows of {seq_len}; give a longer text"
    require(count >= seq_len, text.flag, text.name, remedy)
    return NumTokens(count, is_exact)
