"""Stages: one published directory for each, named by the stage's identity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orchestrator.store.files import Files
from orchestrator.store.published import Published

FOLDER = "stages"


@dataclass(frozen=True)
class Stages:
    """The stages of a store, by id."""

    files: Files

    def at(self, stage_id: str) -> Published:
        """Return the directory of a stage, which may not exist yet."""
        # Rows outlive a loss of power, so the stages that they tell of have to.
        return Published(self.files, FOLDER, stage_id, durable=True)

    def ids(self) -> set[str]:
        """Return the ids of all stages, damaged ones included."""
        return {name for name in self.files.names(FOLDER) if not name.startswith(".")}

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Return the manifests of all whole stages by id. Set damaged ones aside and log it."""
        found, damaged = self.inspect()
        self.set_aside(damaged)
        return found

    def inspect(self) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Return the manifests of whole stages, and what is wrong with the others; change nothing.

        Both are by id.
        """
        ids = sorted(self.ids())
        checks = dict(zip(ids, self.files.for_each(ids, self.check), strict=True))
        damaged = {stage: why for stage, (_, why) in checks.items() if why is not None}
        whole = {s: m for s, (m, _) in checks.items() if m is not None and s not in damaged}
        return whole, damaged

    def check(self, stage_id: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return the manifest and what is wrong; nothing is if the stage is not there (any more).

        Hashes only the files that are younger than the manifest.
        """
        stage = self.at(stage_id)
        manifest, why = stage.check(deep=False)
        if manifest is None:
            if stage.is_absent():
                return None, None
            # Another writer may have put the manifest there since.
            manifest, why = stage.check(deep=False)
        if manifest is not None and manifest.get("id") != stage_id:
            why = "the manifest of another stage"
        return manifest, why

    def set_aside(self, stage_ids: Iterable[str]) -> None:
        """Set aside those that are still damaged: another sweep may have computed them again."""
        for stage_id in stage_ids:
            _, why = self.check(stage_id)
            if why is not None:
                self.at(stage_id).set_aside(why)

    def drop_weights(self, stage_id: str) -> None:
        """Remove a stage's files and keep its metrics."""
        self.at(stage_id).drop()
