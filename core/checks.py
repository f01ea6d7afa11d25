"""Refusals of bad input: one line that names the flag, the value and the remedy.

The settings in `config.py` check themselves with these functions. So does the code that checks
input against files and models.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

MOST_NAMES = 12
"""Most known names that a refusal lists."""


class BadInputError(ValueError):
    """Input that the user can mend, told in one line; any other error is a fault of this code."""

    flag: str | None = None
    """The flag without dashes, if the message begins with it and its value."""
    value: object = None


def require(condition: bool, flag: str, value: object, remedy: str) -> None:
    """Raise a `BadInputError` of one line, flag, value and remedy, unless the condition holds."""
    if not condition:
        error = BadInputError(f"--{flag} {value}: {remedy}")
        error.flag, error.value = flag, value
        raise error


def is_unicode(text: str) -> bool:
    """Return True if a string has no lone surrogate, so that UTF-8 can hold it."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def require_positive(flag: str, value: float | None, remedy: str) -> None:
    """Refuse a number that is given, but not positive and finite."""
    require(value is None or 0 < value < math.inf, flag, value, remedy)


def require_used(flag: str, value: object, is_used: bool, needed: str) -> None:
    """Refuse a value that nothing reads without another flag."""
    require(value is None or is_used, flag, value, f"has no effect without {needed}")


def require_known(flag: str, value: str, known: Iterable[str]) -> None:
    """Refuse a name that is not in `known`, and suggest the nearest one in any case of letters."""
    known = list(known)
    if value not in known:
        spelt = {name.lower(): name for name in known}
        near = difflib.get_close_matches(value.lower(), spelt, n=1)
        hint = f"did you mean {spelt[near[0]]!r}? " if near else ""
        more = f" and {len(known) - MOST_NAMES:,} more" if len(known) > MOST_NAMES else ""
        names = ", ".join(known[:MOST_NAMES]) + more
        raise BadInputError(f"--{flag} {value!r} is unknown: {hint}known are {names}")


def require_unique(flag: str, values: Iterable[object]) -> None:
    """Refuse an empty list and repeated values."""
    values = list(values)
    require(bool(values), flag, "(empty)", "give at least one value")
    seen: set[object] = set()
    for value in values:
        require(value not in seen, flag, value, "given twice; name each value once")
        seen.add(value)
