"""The folder in which Ray keeps its session on this machine: short enough, and one we may write.

The path of a socket has 107 bytes at most (`man 7 unix`). Batch systems and sandboxes set a TMPDIR
so long that Ray's sockets do not fit below it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.checks import BadInputError
from core.paths import require_writable

SOCKET_BYTES = {"linux": 107, "win32": 32_767}.get(sys.platform, 103)
"""Longest path of a socket in bytes. On Windows Ray's sockets have ports and no paths."""
BELOW = "/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_UsageStatsHead"
"""The longest path of a socket below the folder: a process number and a name have this length."""


LISTENER = "/pymp-abcdefgh/listener-abcdefgh"
"""A socket that Ray's dashboard makes below TMPDIR, by Python's multiprocessing."""


@contextmanager
def short_paths() -> Iterator[dict[str, Any]]:
    """Let a Ray that starts meanwhile keep its files where its sockets fit.

    Yields:
        Options of `ray.init`, none where Ray's own choice can be used.
    """
    folder, asked = temp_folder(), os.environ.get("TMPDIR")
    own = folder == ray_folder()
    if own and (asked is None or fits(asked + LISTENER)):
        yield {}
        return
    why = trouble(ray_folder()) or f"{asked} is too long"
    print(f"Ray keeps its files in {folder}: {why}", flush=True)
    os.environ["TMPDIR"] = os.path.dirname(folder)
    try:
        yield {} if own else {"address": "local", "_temp_dir": folder}
    finally:
        os.environ.pop("TMPDIR") if asked is None else os.environ.update(TMPDIR=asked)


def fits(path: str) -> bool:
    """Return True if a socket can have this path."""
    return len(os.fsencode(path)) <= SOCKET_BYTES


def ray_folder() -> str:
    """Return the folder that Ray chooses by itself, below RAY_TMPDIR or the system's folder."""
    usual = "/tmp"
    if sys.platform == "linux":
        usual = os.environ.get("TMPDIR", usual)  # On macOS Ray does not ask for it.
    elif sys.platform == "win32":
        usual = tempfile.gettempdir()
    return os.path.join(os.environ.get("RAY_TMPDIR", usual), "ray")


def temp_folder() -> str:
    """Return a folder for a Ray that is started here: Ray's own choice, or one in /tmp.

    Raises:
        BadInputError: none of them can be used; in one line.
    """
    why = []
    user = getattr(os, "getuid", None)  # Windows has none, and no /tmp.
    others = [] if user is None else ["/tmp/ray", f"/tmp/ray-{user()}"]
    for folder in (ray_folder(), *others):
        problem = trouble(folder)
        if problem is None:
            return folder
        why.append(problem)
    remedy = "set RAY_TMPDIR to a folder with a short path that you can write"
    raise BadInputError(
        f"Ray has no place for its sockets: {'; '.join(dict.fromkeys(why))}; {remedy}"
    )


def trouble(folder: str) -> str | None:
    """Return why Ray cannot use a folder, None if it can."""
    if not os.path.isabs(folder):
        return f"{folder} is no absolute path"
    if not fits(folder + BELOW):
        return f"{folder} is too long"
    try:
        require_writable("ray", folder, folder)
    except BadInputError as error:
        return str(error).removeprefix("--ray ")
    return None
