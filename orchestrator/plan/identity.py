"""Identities: hashes of canonical JSON that name stages, cells, rows and token files."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any


def canonical_json(value: Any) -> str:
    """Return one text for one value: sorted keys, no spaces.

    Values that JSON would not give back unchanged are refused.
    """

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
    """Return the first 32 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:32]


def row_key(cell_id: str, evaluation: str) -> str:
    """Return the name of a row, fit for a file name.

    Args:
        cell_id: id of the cell.
        evaluation: id of the evaluate stage, or what else the cell was evaluated on.
    """
    return hashlib.sha256(json.dumps([cell_id, evaluation]).encode()).hexdigest()[:24]
