"""The check's result as a table of 80 columns."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable

from gpu_check.findings import Row
from gpu_check.parts import PARTS

CASE, TEXT = 26, 80
INDENT = 2 + CASE + 1 + 7 + 1 + 6 + 1
WORDS = {"not_run": "not run"}


def lines_of(row: Row) -> list[str]:
    """Return the lines of one row: the text goes on below itself."""
    text = textwrap.wrap(row.text, TEXT - INDENT) or [""]
    status = WORDS.get(row.status, row.status)
    first = f"  {row.case:<{CASE}} {status:<7} {row.seconds:6.1f} {text[0]}"
    return [first, *(" " * INDENT + line for line in text[1:])]


def table(rows: Iterable[Row]) -> str:
    """Return all rows below the titles of their parts."""
    lines: list[str] = []
    last = None
    for row in rows:
        if row.part != last:
            lines += [*([""] if lines else []), heading(row.part)]
            last = row.part
        lines += lines_of(row)
    return "\n".join(lines)


def heading(part: str) -> str:
    """Return the title of a part, above its rows."""
    title = PARTS[part].title if part in PARTS else part
    return f"{part}: {title}"


def summary(rows: Iterable[Row]) -> str:
    """Return the numbers of rows by status, in words."""
    counts = Counter(row.status for row in rows)
    return ", ".join(f"{count} {WORDS.get(status, status)}" for status, count in counts.items())
