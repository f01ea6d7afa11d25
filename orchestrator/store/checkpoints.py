"""Checkpoints of half-done stages: published directories, one for each step that was saved.

A checkpoint of training holds everything. One of pruning holds the blocks that were pruned since
the one that it adds to, which its manifest names as `after`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.store.files import Files
from orchestrator.store.published import Published
from orchestrator.store.scratch import Scratch

FOLDER = "checkpoints"


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a store, by stage and step."""

    files: Files

    def at(self, stage_id: str, step: int | str) -> Published:
        """Return the directory of a checkpoint, which may not exist yet."""
        return Published(self.files, f"{FOLDER}/{stage_id}", str(step))

    def steps(self, stage_id: str) -> set[str]:
        """Return the names below a stage's folder; a name of digits is the step of a checkpoint."""
        return self.files.names(f"{FOLDER}/{stage_id}")

    def latest(self, stage_id: str) -> Chain | None:
        """Return the newest whole checkpoint of a stage with all that it adds to.

        Damaged ones are set aside. Those that add to one that is gone can serve nobody and are
        removed.
        """
        steps = (name for name in self.steps(stage_id) if name.isdigit())
        for step in sorted(steps, key=int, reverse=True):
            checkpoint = self.at(stage_id, step)
            manifest = checkpoint.manifest()
            if manifest is None:
                if not checkpoint.is_absent():
                    checkpoint.set_aside(checkpoint.fault())
                continue
            parts = self.back_from(stage_id, {**manifest, "step": step})
            if parts is not None:
                return Chain(parts, manifest)
            if manifest.get("after") is not None:
                self.files.delete_folder(FOLDER, stage_id, step)
        return None

    def back_from(self, stage_id: str, wanted: dict[str, Any] | None) -> list[Published] | None:
        """Return a checkpoint and those it adds to, oldest first; None if one is not whole.

        Args:
            stage_id: the stage.
            wanted: `step` and, for an addition, `part` of the newest.
        """
        parts: list[Published] = []
        while wanted is not None:
            checkpoint = self.at(stage_id, int(wanted["step"]))
            manifest, why = checkpoint.check(deep=True)
            if manifest is not None and why is not None:
                checkpoint.set_aside(why)
            if manifest is None or why is not None or manifest.get("part") != wanted.get("part"):
                return None
            parts.insert(0, checkpoint)
            wanted = manifest.get("after")
        return parts

    def linked(self, stage_id: str) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest whole checkpoint, linked into a directory of its own, and its record.

        Only for a local store. Another sweep on it removes checkpoints when it gets further. The
        links keep the files.
        """
        while (newest := self.latest(stage_id)) is not None:
            directory = Scratch(self.files).make()
            try:
                for part in newest.parts:
                    manifest = part.manifest()
                    if manifest is None:
                        raise FileNotFoundError(part.name)
                    at = part.content(manifest)
                    for relative in manifest["files"]:
                        link(self.files.join(*at, relative), directory / relative)
                return directory, newest.record
            except FileNotFoundError:
                pass
            shutil.rmtree(directory, ignore_errors=True)
        return None

    def delete(self, stage_id: str, but: str | None = None) -> None:
        """Remove a stage's checkpoints, all except the step `but` if given."""
        folder = f"{FOLDER}/{stage_id}"
        unwanted = [f"{folder}/{name}" for name in self.steps(stage_id) if name != but]
        if but is None and stage_id in self.files.names(FOLDER):
            unwanted.append(folder)
        for path in unwanted:
            self.files.delete_folder(path)


@dataclass(frozen=True)
class Chain:
    """A checkpoint with those that it adds to, read as one directory."""

    parts: list[Published]
    """Oldest first. Training saves everything each time, so there it is one."""
    record: dict[str, Any]
    """The manifest of the newest."""

    @property
    def files(self) -> Files:
        """The files of the store."""
        return self.parts[0].files

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """The files of all parts in one local directory, fetched for this long from a URI."""
        with ExitStack() as stack:
            folders = [stack.enter_context(part.opened()) for part in self.parts]
            for folder in folders[1:]:
                for file in folder.iterdir():
                    shutil.move(file, folders[0] / file.name)
            yield folders[0]


def link(source: str, target: Path) -> None:
    """Give a file a second name; copy it if the disk cannot do that."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
