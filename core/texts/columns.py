"""Columns of tables of any form: the refusal of one that is not there, and rows that are null."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from core.checks import require
from core.texts.sources import Text

logger = logging.getLogger(__name__)

STRINGS = ("string", "large_string", "string_view")
"""Types of columns that hold texts."""


def name_a_column(text: Text, kinds: Mapping[str, Any]) -> str:
    """Return the remedy for a table without the wanted column of strings.

    Args:
        text: the text, which has the name and the column that were given.
        kinds: the type of each column that there is.
    """
    columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    is_any = text.source is None and any(kind in STRINGS for kind in kinds.values())
    file = text.name.removesuffix(f"#{text.column}")
    how = f"; name one of strings as {file}#COLUMN" if is_any else ""
    return f"has no column {text.column!r} of strings; its columns are {columns or 'none'}{how}"


def without_nulls(text: Text, rows: Sequence[str], nulls: int) -> Sequence[str]:
    """Return the rows that are not null, and warn of those that are; refuse a text without rows."""
    require(len(rows) > 0, text.flag, text.name, "holds no rows with text; give one with text")
    if nulls:
        warn_of_nulls(text.flag, text.name, nulls, len(rows) + nulls)
    return rows


@functools.cache
def warn_of_nulls(flag: str, name: str, nulls: int, total: int) -> None:
    """Say once that rows are left out."""
    logger.warning("--%s %s: %d of %d rows are null and left out", flag, name, nulls, total)
