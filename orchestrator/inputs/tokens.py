"""Token files: the tokens that stages read, made once and named by a hash of all behind them.

Workers read token files, never texts. Beside the tokens of an evaluation stand the words and bytes
of each token (`core/measures/counts.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from core.checks import require
from core.measures.counts import sampled_counts, stream_counts
from core.texts.sources import Text
from core.texts.tokenization import WithoutBos
from core.texts.windows import begun, calibration_windows, token_stream
from orchestrator.failure import DamagedTokensError
from orchestrator.inputs.models import ResolvedModel
from orchestrator.inputs.token_files import read_tokens, stored_names, write_tokens
from orchestrator.inputs.tokenizer_checks import fitting_tokenizer, require_known_ids
from orchestrator.plan.identity import identity
from orchestrator.plan.inputs import (
    Draw,
    EvaluationText,
    Reading,
    TextInput,
    TrainingDraw,
    TrainingText,
)
from orchestrator.plan.stages import Stage
from orchestrator.store.store import Store

logger = logging.getLogger(__name__)

COUNTS = ".counts"
"""Ending of the name of the counts beside a token file."""
SAMPLED_SEED = 0
"""Seed that the ALPS code draws its evaluation windows of C4 with."""


def tokens_id(reading: Reading | TrainingDraw, model_identity: str) -> str:
    """Return the name of the token file that a stage reads."""
    return identity({"tokenizer": model_identity, **reading.tokens_key()})


def missing_tokens(
    models: Iterable[ResolvedModel], stages: Iterable[Stage], store: Store
) -> dict[str, Tensor]:
    """Tokenise what stages read and the store does not hold, with counts; not what they train on.

    Returns:
        Tokens and counts by the name of their file.

    Raises:
        ValueError: a text is too short; says how many windows it has.
    """
    stages = list(stages)
    stored = stored_names(store)
    found: dict[str, Tensor] = {}
    for model in models:
        mine = (stage for stage in stages if stage.model == model.inputs.name)
        readings = {reading: None for stage in mine for reading in stage.work.readings()}
        readings = [each for each in readings if not isinstance(each, TrainingText)]
        tokenizer = None
        for reading in readings:
            name = tokens_id(reading, model.source.identity)
            wanted = [name, name + COUNTS] if isinstance(reading, EvaluationText) else [name]
            lacking = [
                each
                for each in wanted
                if each not in found and not (each in stored and is_whole(store, each))
            ]
            if lacking:
                tokenizer = tokenizer or fitting_tokenizer(model.source, model.facts)
            for each in lacking:
                if not each.endswith(COUNTS):
                    found[each] = known_tokens(reading, model, tokenizer)
                elif (counts := count_units(reading, model.texts, tokenizer)) is not None:
                    found[each] = counts
    return found


def known_tokens(reading: Reading, model: ResolvedModel, tokenizer: Any) -> Tensor:
    """Return the tokens that a stage reads; refuse those that the model has no embedding for."""
    tokens = tokenise(reading, model.texts, tokenizer)
    require_known_ids(model.facts, tokens, tokenizer)
    return tokens


def tokenise(reading: Reading, texts: Mapping[str, Text], tokenizer: Any) -> Tensor:
    """Return calibration windows, or the whole stream of a training or evaluation text.

    A stream whose windows begin with BOS has one BOS in front, and windows are made without it.
    """
    spec = reading.text if isinstance(reading, Draw) else reading
    text, seq_len, reader = texts[spec.text], spec.seq_len - spec.bos, reader_of(spec, tokenizer)
    if isinstance(reading, Draw):
        windows = calibration_windows(
            text,
            reader,
            num_samples=reading.text.num_samples,
            seq_len=seq_len,
            sampling=reading.text.sampling,
            seed=reading.seed,
        )
        return begun(windows, reader.bos) if isinstance(reader, WithoutBos) else windows
    if isinstance(spec, EvaluationText) and spec.num_samples is not None:
        size = (spec.num_samples, seq_len)
        stream = calibration_windows(text, reader, *size, "documents", SAMPLED_SEED).flatten()
    else:
        stream = token_stream(text, reader)
    remedy = f"has {len(stream)} tokens, 0 windows of {seq_len}; give a longer text"
    require(len(stream) >= seq_len, text.flag, text.name, remedy)
    return begun(stream, reader.bos) if isinstance(reader, WithoutBos) else stream


def reader_of(text: TextInput, tokenizer: Any) -> Any:
    """Return the tokenizer as a text is read: without BOS where each window gets one."""
    return WithoutBos(tokenizer) if text.bos else tokenizer


def count_units(reading: Reading, texts: Mapping[str, Text], tokenizer: Any) -> Tensor | None:
    """Return words and bytes of every token that is scored of what `tokenise` gives."""
    assert isinstance(reading, EvaluationText)
    text, reader = texts[reading.text], reader_of(reading, tokenizer)
    if reading.num_samples is not None:
        size = (reading.num_samples, reading.seq_len - reading.bos)
        return sampled_counts(text, reader, *size, SAMPLED_SEED)
    return stream_counts(text, reader)


def save_tokens(store: Store, tokens: dict[str, Tensor]) -> None:
    """Write token files."""
    for name, tensor in tokens.items():
        write_tokens(store, name, tensor)


def is_whole(store: Store, name: str) -> bool:
    """Return True if a stored token file is as it was written; else log that it is made again."""
    try:
        read_tokens(store, name)
    except DamagedTokensError as damage:
        logger.warning("%s; made again", damage)
        return False
    return True
