"""Token files: the tokens that stages read, made once and named by a hash of all behind them.

Workers read token files, never texts. Beside the tokens of an evaluation stand the words and bytes
of each token (`core/measures/counts.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from core.checks import require
from core.measures.counts import sampled_counts, stream_counts
from core.texts.sources import Text
from core.texts.windows import calibration_windows, token_stream
from orchestrator.inputs.models import ResolvedModel
from orchestrator.inputs.tokenizer_checks import fitting_tokenizer, require_known_ids
from orchestrator.plan.identity import identity
from orchestrator.plan.inputs import Draw, EvaluationText, Reading
from orchestrator.plan.stages import Stage
from orchestrator.store.store import Store

COUNTS = ".counts"
"""Ending of the name of the counts beside a token file."""
SAMPLED_SEED = 0
"""Seed that the ALPS code draws its evaluation windows of C4 with."""


def tokens_id(reading: Reading, model_identity: str) -> str:
    """Return the name of the token file that a stage reads."""
    return identity({"tokenizer": model_identity, **reading.tokens_key()})


def missing_tokens(
    models: Iterable[ResolvedModel], stages: Iterable[Stage], store: Store
) -> dict[str, Tensor]:
    """Tokenise every text that a stage reads and the store does not hold, with its counts.

    Returns:
        Tokens and counts by the name of their file.

    Raises:
        ValueError: a text is too short; says how many windows it has.
    """
    stages = list(stages)
    stored = {name.removesuffix(".safetensors") for name in store.files.names("tokens")}
    found: dict[str, Tensor] = {}
    for model in models:
        mine = (stage for stage in stages if stage.model == model.inputs.name)
        readings = {reading: None for stage in mine for reading in stage.work.readings()}
        tokenizer = None
        for reading in readings:
            name = tokens_id(reading, model.source.identity)
            wanted = [name, name + COUNTS] if isinstance(reading, EvaluationText) else [name]
            lacking = [each for each in wanted if each not in stored and each not in found]
            if lacking:
                tokenizer = tokenizer or fitting_tokenizer(model.source, model.facts)
            for each in lacking:
                make = count_units if each.endswith(COUNTS) else known_tokens
                tensor = make(reading, model, tokenizer)
                if tensor is not None:
                    found[each] = tensor
    return found


def known_tokens(reading: Reading, model: ResolvedModel, tokenizer: Any) -> Tensor:
    """Return the tokens that a stage reads; refuse those that the model has no embedding for."""
    tokens = tokenise(reading, model.texts, tokenizer)
    require_known_ids(model.facts, tokens, tokenizer)
    return tokens


def tokenise(reading: Reading, texts: dict[str, Text], tokenizer: Any) -> Tensor:
    """Return calibration windows, or the whole stream of a training or evaluation text."""
    if isinstance(reading, Draw):
        spec = reading.text
        return calibration_windows(
            texts[spec.text],
            tokenizer,
            num_samples=spec.num_samples,
            seq_len=spec.seq_len,
            sampling=spec.sampling,
            seed=reading.seed,
        )
    text, seq_len = texts[reading.text], reading.seq_len
    if isinstance(reading, EvaluationText) and reading.num_samples is not None:
        count = reading.num_samples
        windows = calibration_windows(text, tokenizer, count, seq_len, "documents", SAMPLED_SEED)
        return windows.flatten()
    stream = token_stream(text, tokenizer)
    remedy = f"has {len(stream)} tokens, 0 windows of {seq_len}; give a longer text"
    require(len(stream) >= seq_len, text.flag, text.name, remedy)
    return stream


def count_units(reading: Reading, model: ResolvedModel, tokenizer: Any) -> Tensor | None:
    """Return words and bytes of every token that `tokenise` gives for an evaluation."""
    assert isinstance(reading, EvaluationText)
    text = model.texts[reading.text]
    if reading.num_samples is not None:
        size = (reading.num_samples, reading.seq_len)
        return sampled_counts(text, tokenizer, *size, SAMPLED_SEED)
    return stream_counts(text, tokenizer)


def save_tokens(store: Store, tokens: dict[str, Tensor]) -> None:
    """Write token files."""
    for name, tensor in tokens.items():
        data_bytes = save_tensors({"tokens": tensor.to(torch.int32)})
        store.files.write_bytes(data_bytes, "tokens", f"{name}.safetensors")


def num_stored_tokens(store: Store, name: str) -> int:
    """Return the tokens of a file by its size: four bytes each behind a short header."""
    return (store.files.size("tokens", f"{name}.safetensors") or 0) // 4


def load_tokens(store: Store, name: str) -> Tensor:
    """Read a token file."""
    return load_tensors(store.files.read_bytes("tokens", f"{name}.safetensors"))["tokens"].long()


def load_counts(store: Store, name: str) -> Tensor | None:
    """Read words and bytes of each token of a file; None where nothing counted them."""
    try:
        return load_tokens(store, name + COUNTS)
    except FileNotFoundError:
        return None
