"""Rows of results: one JSON file for each cell and evaluation text."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from orchestrator.store.files import Files, read_object
from orchestrator.store.names import row_is_safe

FOLDER = "rows"

logger = logging.getLogger(__name__)


def read_row(data: bytes) -> dict[str, Any] | None:
    """Parse a row's file; None if it is no row, or names a stage outside the store."""
    row = read_object(data)
    return row if row is not None and row_is_safe(row) else None


@dataclass(frozen=True)
class Rows:
    """The rows of a store, by key. Newer rows replace older ones; none is ever removed."""

    files: Files

    def put(self, key: str, row: dict[str, Any]) -> None:
        """Write one row; NaN and infinity stay what they are."""
        self.files.write_bytes(json.dumps(row, indent=1).encode(), FOLDER, f"{key}.json")

    def get(self, key: str) -> dict[str, Any] | None:
        """Return one row; None if there is none that can be read."""
        data = self.files.try_read(FOLDER, f"{key}.json")
        return None if data is None else read_object(data)

    def read(self, keys: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return rows by key: all of them, or those of `keys` that exist."""
        found = {}
        names = sorted(name for name in self.files.names(FOLDER) if name.endswith(".json"))
        if keys is not None:
            names = [name for name in names if name.removesuffix(".json") in keys]
        contents = self.files.for_each(names, lambda name: self.files.try_read(FOLDER, name))
        for name, data in zip(names, contents, strict=True):
            row = None if data is None else read_row(data)
            if row is not None:
                found[name.removesuffix(".json")] = row
            elif data is not None:
                logger.warning("rows/%s cannot be read and is left out", name)
        return found
