"""Refusals of bad input: one line that names the flag, the value and the remedy.

What config.py validates with, and offers to all that check what only files and models can tell.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def require(condition: bool, flag: str, value: object, remedy: str) -> None:
    """Raises the one-line `ValueError` that bad input gets: flag, value, remedy."""
    if not condition:
        raise ValueError(f"--{flag} {value}: {remedy}")


def require_known(flag: str, value: str, known: Iterable[str]) -> None:
    """Refuses a name that is not in `known`, suggesting the nearest one."""
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"--{flag} {value!r} is unknown: {hint}known are {', '.join(known)}")


def require_unique(flag: str, values: Iterable[object]) -> None:
    """Refuses an empty list and repeated values."""
    values = list(values)
    require(bool(values), flag, "(empty)", "give at least one value")
    seen: set[object] = set()
    for value in values:
        require(value not in seen, flag, value, "given twice; name each value once")
        seen.add(value)
