"""Names that are read from a store. They are data: none of them may lead out of the store."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from core.checks import BadInputError

DRIVE = re.compile(r"[A-Za-z]:")
MOST_BYTES = 255
"""Longest name of a file or folder that file systems take."""
MOST_BYTES_IN_ALL = 1024
"""Longest name that object stores take."""


class UnsafeNameError(BadInputError):
    """A name leads out of the store, or could on another system, or is no name of a file."""

    def __init__(self, root: str, name: object) -> None:
        why = "leads out of the store, or no file can have it"
        super().__init__(f"{root}: the name {name!r:.80} is refused: it {why}")


def is_safe(name: object) -> bool:
    """Return True if a name, joined to a folder with `/`, stays in that folder on any system.

    An absolute name, a drive letter, a backslash, `.`, `..` and an empty part do not. A name is not
    safe either if no file can have it: it is too long, or not UTF-8.
    """
    if not isinstance(name, str) or "\\" in name or "\0" in name:
        return False
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        return False
    if len(encoded) > MOST_BYTES_IN_ALL or max(map(len, encoded.split(b"/"))) > MOST_BYTES:
        return False
    return not any(part in ("", ".", "..") or DRIVE.match(part) for part in name.split("/"))


def is_plain(name: object) -> bool:
    """Return True if a name is safe and names something directly in its folder."""
    return is_safe(name) and "/" not in str(name)


def leads_out(root: str, name: str) -> bool:
    """Return True if a link among the local folders of a name leads out of the root.

    The first folder, such as `stages`, may be a link: nobody but the user can have made it.
    """
    top, *rest = name.split("/")
    path = first = os.path.join(root, top)
    for part in rest:
        path = os.path.join(path, part)
        if os.path.islink(path):
            real = os.path.realpath(path)
            insides = map(os.path.realpath, (root, first))
            if not any(Path(real).is_relative_to(inside) for inside in insides):
                return True
    return False


def row_is_safe(row: dict[str, Any]) -> bool:
    """Return True if a row names no stage outside the store."""
    named = (row.get("stage_id"), row.get("stage_dir"))
    return all(name is None or is_safe(name) for name in named)
