"""Directories to write files in before they are published.

On a local store they lie on the store's own disk, so that publishing is one rename. For a remote
store they lie in this machine's folder for temporary files.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.store.files import SCRATCH, Files
from orchestrator.store.owners import is_alive, owned_name

ABANDONED_NS = 7 * 86_400 * 10**9
"""Age after which nobody can be writing any more, where it is unknown if the writer runs."""
PREFIX = "prune-sweep-"
"""Begins the names in the folder for temporary files, which other programs use too."""


@dataclass(frozen=True)
class Scratch:
    """The directories that processes are writing in."""

    files: Files

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """A new local directory, removed at the end."""
        directory = self.make()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def make(self) -> Path:
        """Make a directory on the store's own disk, or on this machine's for a remote store."""
        if self.files.is_local:
            directory = self.files.aside()
        else:
            directory = Path(tempfile.gettempdir(), PREFIX + owned_name())
        directory.mkdir(mode=0o700)
        return directory

    def folder(self) -> Path | None:
        """Return the directory for files without a name; None is the system's own."""
        return self.files.aside().parent if self.files.is_local else None

    def tidy(self) -> None:
        """Remove what killed processes left half written.

        The owner of a directory has ended, or nothing has been written there for a week.
        """
        local = self.files.is_local
        folder = Path(self.files.join(SCRATCH) if local else tempfile.gettempdir())
        unknown = []
        for path in folder.glob("*" if local else f"{PREFIX}*"):
            alive = is_alive(path.name.removeprefix(PREFIX))
            if alive is None:
                unknown.append(path)
            elif not alive:
                remove(path)
        if unknown:
            now = self.files.now_ns() if local else time.time_ns()
            for path in unknown:
                if is_abandoned(path, now):
                    remove(path)


def is_abandoned(path: Path, now: int) -> bool:
    """Return True if nothing at or below a path is younger than a week."""
    try:
        newest = max(each.lstat().st_mtime_ns for each in (path, *path.rglob("*")))
    except FileNotFoundError:
        return False  # Its owner is at work on it.
    return now - newest > ABANDONED_NS


def remove(path: Path) -> None:
    """Remove a file or directory that another process may remove too."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
