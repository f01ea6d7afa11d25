"""Paths that users name: `~`, `$VAR` and `file:` URIs become plain paths before anything is read.

A shell expands `~` only at the start of a word, and nothing expands it in `--out-dir=~/x`, in a
preset or in a recorded command.
"""

from __future__ import annotations

import errno
import os
import re
from urllib.parse import urlsplit

from core.checks import BadInputError, is_unicode, require

VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL)
"""Errors that say that there is no file; the last one says so on Windows of an impossible name."""
READ_ONLY = 1
"""Flag of a file system that nobody may write (`ST_RDONLY`)."""


def local_path(flag: str, name: str) -> str:
    """Return the path that a name stands for; a URI other than `file:` keeps its form.

    A `$` stays if a path of that name exists.

    Raises:
        BadInputError: a variable or a home folder is not known, or no file can have this name.
    """
    encodable = "\0" not in name and is_unicode(name)
    require(encodable, flag, ascii(name), "is not a name in UTF-8; rename it, or set LANG=C.UTF-8")
    path = file_uri(flag, name) if name.startswith("file:") else os.path.expanduser(name)
    if os.path.lexists(path):
        return path
    require(not path.startswith("~"), flag, name, f"no such home folder; write ./{name}")
    path = os.path.expandvars(path)
    unknown = VARIABLE.search(path)
    remedy = f"the variable {unknown and unknown[0]} is not set; set it, or write the whole path"
    require(unknown is None, flag, name, remedy)
    remedy = "a # ends the path of a URI; write %23"
    require("://" not in path or "#" not in path, flag, name, remedy)
    return path


def file_uri(flag: str, name: str) -> str:
    """Return the path of a `file:` URI."""
    parts = urlsplit(name)
    whole = parts.netloc in ("", "localhost") and parts.path.startswith("/")
    require(whole, flag, name, "names no file of this machine; write file:///PATH, or the path")
    remedy = "ends at its # or ?; write the path without file://"
    require(not re.search(r"[#?]", name), flag, name, remedy)
    from urllib.request import url2pathname  # Rarely used, and slow to import.

    return url2pathname(parts.path)  # On Windows it leaves out the slash before a drive.


def look_up(flag: str, name: str, path: str) -> os.stat_result | None:
    """Return what the system says about the file or folder at `path`, None if there is none.

    Raises:
        BadInputError: the system refuses to look: the name is too long, or access is denied.
    """
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise BadInputError(f"--{flag} {name}: cannot be read ({error.strerror})") from None


def require_writable(flag: str, name: str, path: str) -> None:
    """Refuse a folder that this user can neither write nor make; try nothing out.

    Raises:
        BadInputError: one line that names the place which refuses.
    """
    require("://" not in path, flag, name, "is a URI; name a local folder")
    look_up(flag, name, path)
    place = os.path.abspath(path)
    while not os.path.lexists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)  # A drive of Windows may be absent too.
    require(os.path.isdir(place), flag, name, f"{place} is no folder; name another place")
    why = f"{os.strerror(errno.EROFS if is_read_only(place) else errno.EACCES)}: {place}"
    usable = os.access(place, os.W_OK | os.X_OK)
    require(usable, flag, name, f"cannot be written ({why}); name another place")


def is_read_only(place: str) -> bool:
    """Return True if a place is known to lie on a file system that nobody may write."""
    ask = getattr(os, "statvfs", None)  # Windows has none.
    return ask is not None and bool(ask(place).f_flag & READ_ONLY)
