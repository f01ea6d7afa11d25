"""The content of a text: its documents, or all of it as one string."""

from __future__ import annotations

import io
import json
import lzma
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import cast

from core.checks import BadInputError, require
from core.hub.identity import first_line
from core.texts.named_texts import rows_hash
from core.texts.sources import Text


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
        return [_json_row(text, n, line) for n, line in enumerate(_read(text).split("\n")) if line]
    return _table(text)


def _json_row(text: Text, index: int, line: str) -> str:
    """Return the text of one JSON line; refuse a line that holds none."""
    try:
        row = json.loads(line)[text.column]
    except (ValueError, KeyError, TypeError):
        row = None
    remedy = f'line {index + 1} is not an object like {{"{text.column}": "..."}}'
    require(isinstance(row, str), text.flag, text.name, remedy)
    return cast(str, row)


def _read(text: Text) -> str:
    """Return a local file as a string; line ends become single newlines."""
    assert text.path is not None
    data = Path(text.path).read_bytes()
    try:
        decoded = (lzma.decompress(data) if text.path.endswith(".xz") else data).decode("utf-8")
    except UnicodeDecodeError as error:
        remedy = f"not UTF-8 text (byte {error.start}); convert it"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}") from error
    return decoded.replace("\r\n", "\n")


def _table(text: Text) -> Sequence[str]:
    """Return one column of a parquet or JSON file, memory-mapped by `datasets`."""
    # Imported here because it takes a second, and most sweeps read no table.
    from datasets import load_dataset
    from huggingface_hub import hf_hub_download

    try:
        with _no_bars():
            path = text.path or hf_hub_download(
                cast(str, text.repo), text.rule.file, repo_type="dataset", revision=text.commit
            )
            table = load_dataset(text.form, data_files=path, split="train")
    except Exception as error:
        # The reader of each format raises its own kinds of errors.
        remedy = f"cannot be read: {first_line(error)}"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}") from error
    kinds = {name: getattr(kind, "dtype", None) for name, kind in (table.features or {}).items()}
    remedy = f"has no column {text.column!r} of strings; its columns are {', '.join(kinds)}"
    is_text = kinds.get(text.column) in ("string", "large_string")
    require(is_text, text.flag, text.name, remedy)
    rows, wanted = cast(Sequence[str], table[text.column]), text.rule.rows_sha256
    if wanted is not None and rows_hash(rows) != wanted:
        changed = "these are not the rows" if text.path else "the hub has changed it: not the rows"
        remedy = f"{changed} that papers read; give a copy of the original as {text.label}=FILE"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}")
    return rows


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the progress bars of downloads and of `datasets` off the terminal."""
    import datasets
    from huggingface_hub import utils as hub_utils

    libraries = (hub_utils, datasets)
    shown = [library for library in libraries if not library.are_progress_bars_disabled()]
    for library in shown:
        library.disable_progress_bars()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bars()
