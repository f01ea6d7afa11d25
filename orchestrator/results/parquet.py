"""Rows as an Arrow table and as one Parquet file."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pyarrow as pa
from pyarrow import parquet
from pyarrow.fs import FileSystem

from orchestrator.results.schema import (
    _REAL,
    FURTHER,
    SCHEMA,
    Row,
    axis_columns_of,
    check_row,
    sort_key,
    task_columns_of,
)
from orchestrator.store.files import replace_file

_MADE_OF = b"made_of"
"""Key of the file's metadata."""


def to_table(rows: Iterable[Row]) -> pa.Table:
    """Return rows as an Arrow table, sorted; assert that each keeps the contract of `SCHEMA`."""
    rows = list(rows)
    for row in rows:
        check_row(row)
    further = [n for n in FURTHER if any(row.get(n) is not None for row in rows)]
    fields = [pa.field(name, FURTHER[name]) for name in further]
    fields += [pa.field(name, kind) for name, kind in axis_columns_of(rows).items()]
    tasks = (pa.field(name, _REAL) for name in task_columns_of(rows))
    schema = pa.schema([*SCHEMA, *fields, *tasks])
    return pa.Table.from_pylist(sorted(rows, key=sort_key), schema=schema)


def write_parquet(
    rows: Iterable[Row],
    path: str | os.PathLike[str],
    filesystem: FileSystem | None = None,
    made_of: str = "",
) -> None:
    """Write all rows as one Parquet file: a reader sees the old file or the new, never half.

    Args:
        rows: the rows.
        path: the file.
        filesystem: that of the file; the local one by default.
        made_of: a name for what the rows were made of, for `made_of` to find.
    """
    table = to_table(rows).replace_schema_metadata({_MADE_OF: made_of.encode()})
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    replace_file(sink.getvalue(), path, filesystem)


def made_of(path: str | os.PathLike[str], filesystem: FileSystem | None = None) -> str | None:
    """Return the name that a file was written with; None if there is no file that can be read."""
    try:
        found = parquet.read_schema(os.fspath(path), filesystem=filesystem).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    return found.get(_MADE_OF, b"").decode()


def read_rows(path: str | os.PathLike[str], filesystem: FileSystem | None = None) -> list[Row]:
    """Read the rows of a `results.parquet`, with every column of `SCHEMA`."""
    return parquet.read_table(os.fspath(path), filesystem=filesystem).to_pylist()
