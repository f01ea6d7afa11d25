"""The content of a text: its documents, or all of it as one string."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from core.texts.rows import json_rows, separated_rows
from core.texts.sources import Text
from core.texts.tables import table_rows
from core.texts.unpacking import read_string


def documents(text: Text) -> Sequence[str]:
    """Return the documents of a text: its rows, or the non-blank lines of plain text.

    The rows of a hub file stay on disk and are read one by one.

    Raises:
        BadInputError: in one line naming the flag, for content that cannot be read as text.
    """
    if text.form == "plain":
        return [line for line in _read(text).split("\n") if line.strip()]
    return _rows(text)


def joined(text: Text) -> str:
    """Return the whole text as one string: plain text as it is, rows with the joiner between."""
    if text.form == "plain":
        return _read(text)
    return text.rule.joiner.join(islice(_rows(text), text.rule.stream_rows))


def _rows(text: Text) -> Sequence[str]:
    """Return the rows of any form but plain text."""
    if text.form == "raw":
        # The WikiText dataset does the same: rows keep their newline, a blank line is an empty row.
        return [line if line.strip() else "" for line in io.StringIO(_read(text))]
    if text.form == "jsonl":
        return json_rows(text, _read(text))
    if text.form == "csv":
        return separated_rows(text, _read(text))
    return table_rows(text)


def _read(text: Text) -> str:
    """Return a local file as a string; line ends become single newlines."""
    assert text.path is not None
    return read_string(text.flag, text.name, Path(text.path))
