"""Identities: hashes of canonical JSON that name stages, cells, rows and token files."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Any

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return one text for one value: sorted keys, no spaces.

    Raises:
        TypeError, ValueError: JSON would not give the value back unchanged.
    """
    require_text_keys(value)
    return _ENCODER.encode(value)


def require_text_keys(value: Any) -> None:
    """Raise a TypeError for keys that are not text: JSON would turn numbers into text."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys must be strings: {value}")
        value = [*value.values()]
    if isinstance(value, list | tuple):
        for each in value:
            if isinstance(each, dict | list | tuple):
                require_text_keys(each)


def identity(value: Any) -> str:
    """Return the first 32 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


@functools.cache
def names_of(kind: type) -> tuple[str, ...]:
    """Return the names of a dataclass's fields; plans of many cells ask for them very often."""
    return tuple(field.name for field in dataclasses.fields(kind))


def values_of(one: Any) -> dict[str, Any]:
    """Return the values of a dataclass's fields, by name."""
    return {name: getattr(one, name) for name in names_of(type(one))}


def row_key(cell_id: str, evaluation: str) -> str:
    """Return the name of a row, fit for a file name.

    Args:
        cell_id: id of the cell.
        evaluation: id of the evaluate stage, or what else the cell was evaluated on.
    """
    return hashlib.sha256(json.dumps([cell_id, evaluation]).encode()).hexdigest()[:24]
