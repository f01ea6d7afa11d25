"""Models and texts of a grid as plain values, resolved before planning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
