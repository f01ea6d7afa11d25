"""The out-dir of a sweep, refused before any work if a sweep cannot use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from core.checks import BadInputError, require
from core.paths import look_up, require_writable
from orchestrator.store.files import SCRATCH
from orchestrator.store.store import MARKER, Store

ROOM = "/".join(["x" * 50] * 8)
"""A path below the out-dir that is longer than any that a sweep or Ray makes there."""


def require_out_dir(store: Store, writes: bool) -> None:
    """Refuse a local out-dir that holds something else, or that a sweep could not write."""
    path, root = store.files.path, store.root
    if not store.files.is_local:
        return
    look_up("out-dir", root, f"{path}/{ROOM}")
    folders = [path]
    if os.path.exists(path):
        require(os.path.isdir(path), "out-dir", root, "is a file; name a directory")
        entries = readable_entries(root, path)
        # A sweep killed in its first moment leaves a half-written marker.
        others = [entry for entry in entries if not entry.name.startswith((MARKER, SCRATCH))]
        remedy = "holds something else; name a new directory or one of an earlier sweep"
        require(not others or store.files.exists(MARKER), "out-dir", root, remedy)
        folders += [entry.path for entry in entries if entry.is_dir()]
    for folder in folders if writes else ():
        require_writable("out-dir", root, folder)


def readable_entries(root: str, path: str) -> list[os.DirEntry[str]]:
    """Return the files and folders of an out-dir; refuse one that this user cannot list."""
    try:
        return list(os.scandir(path))
    except OSError as error:
        raise BadInputError(f"--out-dir {root}: cannot be read ({error.strerror})") from None


def is_marked(root: str) -> bool:
    """Return True if a local directory is a sweep's already."""
    return os.path.exists(os.path.join(root, MARKER))


def mark(store: Store) -> None:
    """Mark the directory as a sweep's, and remove what killed processes left half written."""
    with told_if_unwritable(store):
        if not store.files.exists(MARKER):
            store.files.write_bytes(b'{"format": 1}\n', MARKER)
        store.scratch.tidy()


@contextmanager
def told_if_unwritable(store: Store, flag: str = "out-dir") -> Iterator[None]:
    """Tell in one line that the system refuses to write in a store, also below a URI."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadInputError(f"--{flag} {store.root}: cannot be written ({reason})") from None
