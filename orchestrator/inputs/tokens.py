"""Token files: what stages read of texts, tokenised once and found by the hash of all behind it.

Beside inputs.py, which says which texts these are. Workers read token files, never texts. Beside
the tokens of an evaluation stand the words and bytes of each (`core/measures/counts.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from core.checks import require
from core.measures.counts import sampled_counts, stream_counts
from core.models.loading import load_tokenizer
from core.texts import windows as data
from orchestrator.inputs.resolved import ResolvedModel
from orchestrator.plan.identity import identity
from orchestrator.plan.stages import Stage
from orchestrator.store.store import Store

COUNTS = ".counts"
"""Ends the name of the counts beside a token file."""
SAMPLED_SEED = 0
"""What the ALPS code draws its evaluation windows of C4 with."""


def tokens_id(stage: Stage | dict[str, Any], model_identity: str) -> str | None:
    """Name of the token file that a stage reads; None for one that reads no text."""
    fields = stage.fields if isinstance(stage, Stage) else stage["fields"]
    kind = stage.kind if isinstance(stage, Stage) else stage["kind"]
    if kind == "prune" and "calibration" in fields:
        key = {"calibration": fields["calibration"], "seed": fields["seed"]}
    elif kind in ("finetune", "evaluate"):
        role = "finetune" if kind == "finetune" else "evaluation"
        spec = fields["text"]
        key = {"stream": spec["text"], "role": role}
        if "num_samples" in spec:
            key |= {"num_samples": spec["num_samples"], "seq_len": spec["seq_len"]}
    else:
        return None
    return identity({"tokenizer": model_identity, **key})


def validation_reader(stage: Stage) -> Stage:
    """Reads the text that a training stage chooses its learning rate on, as an evaluation would."""
    return replace(stage, kind="evaluate", fields={"text": stage.fields["validation"]})


def readers(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Stages, and beside those that choose a learning rate what reads the text of the choice."""
    for stage in stages:
        yield stage
        if "validation" in stage.fields:
            yield validation_reader(stage)


def missing_tokens(
    models: list[ResolvedModel], stages: dict[str, Stage], store: Store
) -> dict[str, Tensor]:
    """Tokenises every text that a stage reads and the store does not hold, with its counts.

    Raises:
        ValueError: a text is too short; says how many windows it has.
    """
    stored = {name.removesuffix(".safetensors") for name in store.files.names("tokens")}
    found: dict[str, Tensor] = {}
    for model in models:
        tokenizer, done = None, set(stored)
        for stage in readers(stages.values()):
            name = tokens_id(stage, model.source.identity)
            if stage.model != model.inputs.name or name is None:
                continue
            evaluates = stages[stage.id].kind == "evaluate"
            parts = (name, name + COUNTS) if evaluates else (name,)
            if done.issuperset(parts):
                continue
            tokenizer = tokenizer or load_tokenizer(model.source)
            if name not in done:
                found[name] = tokenise(stage, model, tokenizer)
            counts = count_units(stage, model, tokenizer) if evaluates else None
            if counts is not None:
                found[name + COUNTS] = counts
            done.update(parts)
    return found


def tokenise(stage: Stage, model: ResolvedModel, tokenizer: Any) -> Tensor:
    """Calibration windows, or the whole stream of a training or evaluation text."""
    fields = stage.fields
    if stage.kind == "prune":
        spec = fields["calibration"]
        return data.calibration_windows(
            model.texts[spec["text"]],
            tokenizer,
            num_samples=spec["num_samples"],
            seq_len=spec["seq_len"],
            sampling=spec["sampling"],
            seed=fields["seed"],
        )
    text, seq_len = model.texts[fields["text"]["text"]], fields["text"]["seq_len"]
    if "num_samples" in fields["text"]:
        count = fields["text"]["num_samples"]
        return data.calibration_windows(
            text, tokenizer, count, seq_len, "documents", SAMPLED_SEED
        ).flatten()
    stream = data.token_stream(text, tokenizer)
    require(
        len(stream) >= seq_len,
        text.flag,
        text.name,
        f"has {len(stream)} tokens, 0 windows of {seq_len}; give a longer text",
    )
    return stream


def count_units(stage: Stage, model: ResolvedModel, tokenizer: Any) -> Tensor | None:
    """Words and bytes of every token that `tokenise` gives for an evaluation."""
    spec = stage.fields["text"]
    text = model.texts[spec["text"]]
    if "num_samples" in spec:
        return sampled_counts(text, tokenizer, spec["num_samples"], spec["seq_len"], SAMPLED_SEED)
    return stream_counts(text, tokenizer)


def save_tokens(store: Store, tokens: dict[str, Tensor]) -> None:
    """Writes token files; workers read them instead of the texts."""
    for name, tensor in tokens.items():
        data_bytes = save_tensors({"tokens": tensor.to(torch.int32)})
        store.files.write_bytes(data_bytes, "tokens", f"{name}.safetensors")


def num_stored_tokens(store: Store, name: str) -> int:
    """Tokens of a token file by its size: four bytes each behind a short header."""
    return (store.files.size("tokens", f"{name}.safetensors") or 0) // 4


def load_tokens(store: Store, name: str) -> Tensor:
    """Reads a token file."""
    return load_tensors(store.files.read_bytes("tokens", f"{name}.safetensors"))["tokens"].long()


def load_counts(store: Store, name: str) -> Tensor | None:
    """Words and bytes of each token of a file; None where nothing counted them."""
    try:
        return load_tokens(store, name + COUNTS)
    except FileNotFoundError:
        return None
