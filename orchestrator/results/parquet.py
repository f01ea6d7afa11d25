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
    check_row,
    sort_key,
    task_columns_of,
)
from orchestrator.store.files import replace_file


def to_table(rows: Iterable[Row]) -> pa.Table:
    """Return rows as an Arrow table, sorted; assert that each keeps the contract of `SCHEMA`."""
    rows = list(rows)
    for row in rows:
        check_row(row)
    further = [n for n in FURTHER if any(row.get(n) is not None for row in rows)]
    fields = [pa.field(name, FURTHER[name]) for name in further]
    tasks = (pa.field(name, _REAL) for name in task_columns_of(rows))
    schema = pa.schema([*SCHEMA, *fields, *tasks])
    return pa.Table.from_pylist(sorted(rows, key=sort_key), schema=schema)


def write_parquet(
    rows: Iterable[Row], path: str | os.PathLike[str], filesystem: FileSystem | None = None
) -> None:
    """Write all rows as one Parquet file: a reader sees the old file or the new, never half."""
    sink = pa.BufferOutputStream()
    parquet.write_table(to_table(rows), sink, compression="zstd")
    replace_file(sink.getvalue(), path, filesystem)


def read_rows(path: str | os.PathLike[str], filesystem: FileSystem | None = None) -> list[Row]:
    """Read the rows of a `results.parquet`, with every column of `SCHEMA`."""
    return parquet.read_table(os.fspath(path), filesystem=filesystem).to_pylist()
