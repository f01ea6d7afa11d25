"""Rows of results: one JSON file for each cell and evaluation text."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from typing import Any

from orchestrator.store.files import Files, read_object
from orchestrator.store.index import Index
from orchestrator.store.names import row_is_safe

FOLDER, ENDING = "rows", ".json"

logger = logging.getLogger(__name__)


class Rows:
    """The rows of a store, by key. Newer rows replace older ones; none is ever removed."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.index = Index(files, FOLDER)

    def put(self, key: str, row: dict[str, Any]) -> None:
        """Write one row; NaN and infinity stay what they are."""
        self.files.write_bytes(json.dumps(row, indent=1).encode(), FOLDER, f"{key}{ENDING}")

    def get(self, key: str) -> dict[str, Any] | None:
        """Return one row; None if there is none that can be read."""
        data = self.files.try_read(FOLDER, f"{key}{ENDING}")
        return None if data is None else read_object(data)

    def read(self, keys: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return rows by key: all of them, or those of `keys` that exist."""
        listed = {
            name: stamp
            for name, stamp in self.files.stamps(FOLDER, ENDING).items()
            if keys is None or name.removesuffix(ENDING) in keys
        }
        found = {}
        for name, row in sorted(self.index.objects(listed).items()):
            if row is not None and row_is_safe(row):
                found[name.removesuffix(ENDING)] = row
            else:
                logger.warning("rows/%s cannot be read and is left out", name)
        return found
