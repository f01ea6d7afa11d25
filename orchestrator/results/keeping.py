"""Weights that may go: those that a sweep made on its way, and that no recorded sweep asks for.

The record of a sweep (`sweeps/ID.json`) names the stages whose weights the sweep keeps. The
manifest of weights that a sweep does not keep names that sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from orchestrator.results.record import FOLDER, Record
from orchestrator.store.files import read_object
from orchestrator.store.store import Store

TEMPORARY = "temporary_for"
"""Name in a manifest: the sweep that made the weights and does not keep them."""
KEEPS = "keeps"
"""Name in a record: the stages whose weights the sweep keeps."""


@dataclass(frozen=True)
class Wishes:
    """The part of a sweep's record that tells which weights it asks for."""

    stages: Set[str] | None
    """Stages by id; None in records that do not list them."""
    branches: Set[tuple[str, str]] | None
    """Models and methods that such a record may ask for all weights of; None if it cannot be read,
    for then it may ask for any."""

    @classmethod
    def of(cls, record: Record | None) -> Wishes:
        """Read a record, also one of an earlier version; None for one that cannot be read."""
        if record is None:
            return cls(None, None)
        if KEEPS in record:
            return cls(frozenset(record[KEEPS]), frozenset())
        keep = record.get("config", {}).get("output", {}).get("keep")
        cells = () if keep == "none" else record.get("cells", ())
        return cls(None, frozenset((cell["model"], cell["method"]) for cell in cells))

    def include(self, manifest: Mapping[str, Any]) -> bool:
        """Return True if the sweep asks for the weights of a stage."""
        if self.stages is not None:
            return manifest["id"] in self.stages
        if self.branches is None:
            return True
        return (manifest.get("model"), manifest.get("method")) in self.branches


@dataclass
class RecordedWishes:
    """The wishes of all sweeps that were ever started on a store, as its records are now."""

    store: Store
    stamps: dict[str, tuple[int, int]] = field(default_factory=dict)
    known: dict[str, Wishes] = field(default_factory=dict)

    def asking(self, manifest: Mapping[str, Any]) -> list[str]:
        """Return the sweeps that ask for the weights of a stage."""
        self.refresh()
        return sorted(sweep for sweep, own in self.known.items() if own.include(manifest))

    def refresh(self) -> None:
        """Read the records that are new or have changed: a sweep may start at any time."""
        stamps = self.store.files.stamps(FOLDER, ".json")
        for name in stamps.keys() | self.stamps.keys():
            if stamps.get(name) == self.stamps.get(name):
                continue
            self.known.pop(name.removesuffix(".json"), None)
            data = self.store.files.try_read(FOLDER, name)
            if data is not None:
                self.known[name.removesuffix(".json")] = Wishes.of(read_object(data))
        self.stamps = stamps


class Keeping:
    """Drops weights for one sweep."""

    def __init__(self, store: Store, sweep_id: str) -> None:
        self.store, self.sweep_id = store, sweep_id
        self.wishes = RecordedWishes(store)

    def drop(self, stage_id: str) -> None:
        """Drop weights that this sweep made and does not keep, unless another asks for them."""
        manifest = self.store.stages.at(stage_id).manifest()
        if manifest is None or manifest.get(TEMPORARY) != self.sweep_id:
            return
        if not self.wishes.asking(manifest):
            self.store.stages.drop_weights(stage_id)
