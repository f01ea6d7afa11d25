"""Refusals of bad input: one line that names the flag, the value and the remedy.

The settings in `config.py` check themselves with these functions. So does the code that checks
input against files and models.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class BadInputError(ValueError):
    """Input that the user can mend, told in one line; any other error is a fault of this code."""


def require(condition: bool, flag: str, value: object, remedy: str) -> None:
    """Raise a `BadInputError` of one line, flag, value and remedy, unless the condition holds."""
    if not condition:
        raise BadInputError(f"--{flag} {value}: {remedy}")


def require_positive(flag: str, value: float | None, remedy: str) -> None:
    """Refuse a number that is given, but not positive and finite."""
    require(value is None or 0 < value < math.inf, flag, value, remedy)


def require_used(flag: str, value: object, is_used: bool, needed: str) -> None:
    """Refuse a value that nothing reads without another flag."""
    require(value is None or is_used, flag, value, f"has no effect without {needed}")


def require_known(flag: str, value: str, known: Iterable[str]) -> None:
    """Refuse a name that is not in `known`, and suggest the nearest one."""
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise BadInputError(f"--{flag} {value!r} is unknown: {hint}known are {', '.join(known)}")


def require_unique(flag: str, values: Iterable[object]) -> None:
    """Refuse an empty list and repeated values."""
    values = list(values)
    require(bool(values), flag, "(empty)", "give at least one value")
    seen: set[object] = set()
    for value in values:
        require(value not in seen, flag, value, "given twice; name each value once")
        seen.add(value)
