"""Files and directories of a local disk: renamed, described, and brought safely onto the disk."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

TRIES = 100
"""Tries to rename into a folder that other processes remove, or to a file that they read."""
READ_SECONDS = 0.02
"""Pause before another try where somebody reads the file that is to be replaced."""
IS_WINDOWS = sys.platform == "win32"
"""Windows replaces no file that is open, and syncs only files that are open for writing."""


def place(source: Path, target: Path) -> None:
    """Rename a file or directory into a folder that another process may remove meanwhile.

    On Windows this waits for whoever reads the file that is to be replaced, two seconds at most.
    """
    for tries_left in reversed(range(TRIES)):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(source, target)
            return
        except FileNotFoundError:
            if not (tries_left and source.exists()):
                raise
        except PermissionError:
            if not (tries_left and IS_WINDOWS):
                raise
            time.sleep(READ_SECONDS)


def sync(path: str | Path) -> None:
    """Wait until a file, or the list of names in a directory, is on the disk."""
    if IS_WINDOWS and os.path.isdir(path):
        return  # It opens no folders.
    handle = os.open(path, os.O_RDWR if IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot fsync a directory.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sync_tree(directory: Path) -> None:
    """Wait until a directory and everything below it is on the disk."""
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)


def describe_files(directory: Path) -> dict[str, Any]:
    """Return the size and hash of every file below a directory, by relative name."""
    return {
        file.relative_to(directory).as_posix(): {
            "size": file.stat().st_size,
            "sha256": sha256(file),
        }
        for file in sorted(p for p in directory.rglob("*") if p.is_file())
    }


def sha256(path: Path) -> str:
    """Return the SHA-256 of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
