"""Identities: hashes of canonical JSON that name stages, cells and rows."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any


def row_key(cell_id: str, eval_identity: str) -> str:
    """Names a row, fit for a file name: a hash of the cell and of what it was evaluated on."""
    return hashlib.sha256(json.dumps([cell_id, eval_identity]).encode()).hexdigest()[:24]


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
