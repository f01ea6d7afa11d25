"""Directories to write files in before they are published.

On a local store they lie on the store's own disk, so that publishing is one rename.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestrator.store.files import Files

SCRATCH = ".scratch"


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
        if not self.files.is_local:
            return Path(tempfile.mkdtemp(prefix="stage-"))
        directory = scratch_path(self.files)
        directory.mkdir()
        return directory

    def folder(self) -> Path | None:
        """Return the directory for files without a name; None is the system's own."""
        return scratch_path(self.files).parent if self.files.is_local else None

    def tidy(self) -> None:
        """Remove what killed processes of this machine left half written."""
        if self.files.is_local:
            for name in self.files.names(SCRATCH):
                if is_orphan(name):
                    shutil.rmtree(self.files.join(SCRATCH, name), ignore_errors=True)


def scratch_path(files: Files) -> Path:
    """Return a new path on the disk of a local store; its folder exists."""
    path = Path(files.join(SCRATCH, owned_name()))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def owned_name() -> str:
    """Return a new name that tells which process of which machine it belongs to."""
    return f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}"


def is_orphan(name: str) -> bool:
    """Return True if a process of this machine made the name and has ended."""
    host, _, rest = name.rpartition(".")[0].rpartition(".")
    if host != socket.gethostname() or not rest.isdigit():
        return False
    return not psutil.pid_exists(int(rest))
