"""Manifests of a trial's stages, remembered once they are found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.store.store import Store


class Manifests:
    """Reads each manifest of the store once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.found: dict[str, dict[str, Any]] = {}

    def find(self, stage_id: str) -> dict[str, Any] | None:
        """Return a stage's manifest; None where there is none yet."""
        if stage_id not in self.found:
            manifest = self.store.stages.at(stage_id).manifest()
            if manifest is None:
                return None
            self.found[stage_id] = manifest
        return self.found[stage_id]

    def find_all(self, stage_ids: Iterable[str]) -> set[str]:
        """Look for many manifests, several at a time below a URI; return the stages found."""
        wanted = dict.fromkeys(stage_ids)
        found = self.store.files.for_each(wanted, self.find)
        return {stage for stage, manifest in zip(wanted, found) if manifest is not None}

    def forget(self, stage_id: str) -> None:
        """Read a manifest again the next time."""
        self.found.pop(stage_id, None)
