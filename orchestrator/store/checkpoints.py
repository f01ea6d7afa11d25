"""Checkpoints of half-done training: published directories, one for each step that was saved."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

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

    def latest(self, stage_id: str) -> Published | None:
        """Return the newest whole checkpoint of a stage; set damaged ones aside."""
        steps = (name for name in self.steps(stage_id) if name.isdigit())
        for step in sorted(steps, key=int, reverse=True):
            checkpoint = self.at(stage_id, step)
            manifest, why = checkpoint.check(deep=True)
            if manifest is None:
                continue
            if why is None:
                return checkpoint
            checkpoint.set_aside(why)
        return None

    def linked(self, stage_id: str) -> Path | None:
        """Return the files of the newest whole checkpoint linked into a directory of their own.

        Only for a local store. Another sweep on it removes checkpoints when it gets further. The
        links keep the files.
        """
        while (newest := self.latest(stage_id)) is not None:
            manifest = newest.manifest()
            directory = Scratch(self.files).make()
            try:
                for relative in manifest["files"] if manifest is not None else ():
                    source = self.files.join(newest.folder, newest.name, relative)
                    link(source, directory / relative)
                if manifest is not None:
                    return directory
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
            try:
                self.files.delete_folder(path)
            except OSError:
                pass  # Another sweep removes them too. Leftovers are harmless.


def link(source: str, target: Path) -> None:
    """Give a file a second name; copy it if the disk cannot do that."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)
