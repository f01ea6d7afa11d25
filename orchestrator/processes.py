"""Processes that were started below one, found in /proc; none where there is no such thing."""

from __future__ import annotations

import contextlib
from pathlib import Path


def below(root: int) -> list[int]:
    """Ids of all descendants of a process, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found[1:]


def title_of(pid: int) -> str:
    """What a process calls itself; empty for one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return ""
