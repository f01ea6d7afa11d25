"""Columns of Parquet, Arrow and JSON files, memory-mapped by `datasets`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from core.checks import BadInputError, require
from core.hub.identity import first_line
from core.texts.columns import STRINGS, name_a_column, without_nulls
from core.texts.named_texts import rows_hash
from core.texts.sources import Text


def table_rows(text: Text) -> Sequence[str]:
    """Return one column of a file; nulls of a local file are left out."""
    table = _load(text)
    kinds = {name: _kind(found) for name, found in (table.features or {}).items()}
    is_text = kinds.get(text.column) in STRINGS
    require(is_text, text.flag, text.name, name_a_column(text, kinds))
    column = table.data.column(text.column)
    if text.path is not None:
        require_utf8(text, column)
    rows, wanted = cast(Sequence[str], table[text.column]), text.rule.rows_sha256
    if wanted is not None and rows_hash(rows) != wanted:
        changed = "these are not the rows" if text.path else "the hub has changed it: not the rows"
        remedy = f"{changed} that papers read; give a copy of the original as {text.label}=FILE"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}")
    if text.path is not None and column.null_count:
        return without_nulls(text, [row for row in rows if row is not None], column.null_count)
    return rows


def require_utf8(text: Text, column: Any) -> None:
    """Refuse a column of strings with bytes that are no text."""
    try:
        column.validate(full=True)
    except ValueError as error:
        remedy = f"its {text.column!r} holds bytes that are not UTF-8 ({first_line(error)})"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}") from error


def _load(text: Text) -> Any:
    """Return the whole table."""
    # Imported here because it takes a second, and most sweeps read no table.
    from datasets import load_dataset
    from huggingface_hub import hf_hub_download

    try:
        with _quiet():
            path = text.path or hf_hub_download(
                cast(str, text.repo), text.rule.file, repo_type="dataset", revision=text.commit
            )
            return load_dataset(text.form, data_files=path, split="train")
    except Exception as error:
        # The reader of each format raises its own kinds of errors, and `datasets` wraps them.
        cause = first_line(cast(Exception, error.__cause__ or error))
        is_empty = "BatchSize must be greater than 0" in cause  # Parquet without a row group.
        remedy = "holds no rows with text" if is_empty else f"cannot be read: {cause}"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}") from error


def _kind(feature: Any) -> str:
    """Return the type of a column in words."""
    return str(getattr(feature, "dtype", None) or type(feature).__name__.lower())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and log lines of `datasets` and of downloads off the terminal."""
    import datasets
    from datasets.utils import logging as datasets_logging
    from huggingface_hub import utils as hub_utils

    libraries = (hub_utils, datasets)
    shown = [library for library in libraries if not library.are_progress_bars_disabled()]
    for library in shown:
        library.disable_progress_bars()
    level = datasets_logging.get_verbosity()
    datasets_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets_logging.set_verbosity(level)
        for library in shown:
            library.enable_progress_bars()
