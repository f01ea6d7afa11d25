"""A cell, the stages on the way to it and the inputs they read, as plain values.

A stage's id is a hash of everything that determines its numbers, so regimes that meet at one stage
share it and a finished stage is found again by any later sweep.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from core.config import Target


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces; refuses what would not come out the same."""

    def check(item: Any) -> None:
        if isinstance(item, dict):
            assert all(isinstance(key, str) for key in item), f"keys must be strings: {item}"
            for each in item.values():
                check(each)
        elif isinstance(item, list | tuple):
            for each in item:
                check(each)
        elif isinstance(item, float):
            assert math.isfinite(item), f"not a finite number: {item}"
        else:
            assert item is None or isinstance(item, str | int | bool), f"cannot hash {item!r}"

    check(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def identity(value: Any) -> str:
    """First 32 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


def stage_identity(kind: str, parent: str | None, fields: dict[str, Any]) -> str:
    """Id of the stage of this kind that starts from `parent`; all that its numbers depend on."""
    return identity({"kind": kind, "parent": parent, **fields})


@dataclass(frozen=True)
class TextInput:
    """A text in one role, with the fields of it that numbers depend on."""

    name: str
    """What results call it: as the user named it, without the file of a local copy."""
    fields: dict[str, Any]
    """Content identity and windows: enters stage identities."""


@dataclass(frozen=True)
class ModelInputs:
    """A model and its resolved texts: all that planning needs to know of it."""

    name: str
    identity: str
    dtype: str
    """Of loading, calibration and evaluation."""
    training_dtype: str
    calibration: TextInput | None
    finetune: TextInput | None
    finetune_tokens: int
    batch_tokens: int
    evaluations: tuple[TextInput, ...]
    validation: TextInput | None = None
    """What one of several learning rates is chosen on."""


@dataclass(frozen=True)
class Stage:
    """One step on the way to a cell."""

    id: str
    kind: str
    """`dense`, `prune`, `finetune` or `evaluate`."""
    model: str
    method: str
    parent: str | None
    fields: dict[str, Any]
    """What the id is a hash of, parent included through its id."""
    text: str | None = None
    """Name of the text it reads, for rows."""

    def head(self) -> dict[str, Any]:
        """What a manifest says of the stage itself."""
        names = ("id", "kind", "parent", "model", "method", "fields")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Cell:
    """One point of the grid; one row per evaluation text."""

    id: str
    model: str
    method: str
    regime: str
    target: Target
    seed: int | None
    stages: tuple[str, ...]
    """Weight stages from the dense model to this cell's last, the dense one included."""
    evaluations: tuple[str, ...]
    """Evaluate stages of the last stage, in the order of the model's texts."""
    before: tuple[str, ...]
    """Evaluate stages before this round's training; empty where nothing was trained."""
    round: int
    num_rounds: int
    path: tuple[float, ...]
    """Sparsities that the branch passed through."""

    def all_stages(self) -> tuple[str, ...]:
        """Every stage that this cell's rows are made of, the dense model first."""
        return (*self.stages, *self.before, *self.evaluations)
