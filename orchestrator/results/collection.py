"""The file `results.parquet` of a store: made of all rows, and made again when rows have changed.

A sweep writes it when it ends. Where that did not come about, the next command on the store does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from orchestrator.plan.identity import identity
from orchestrator.results.gathering import gather, task_columns
from orchestrator.results.parquet import made_of, write_parquet
from orchestrator.results.record import (
    Record,
    all_records,
    asks_tasks,
    grid_columns,
    labels_of,
    newest_record,
)
from orchestrator.results.schema import SCHEMA, Row
from orchestrator.store.rows import FOLDER as ROWS
from orchestrator.store.store import Store

FILE = "results.parquet"
ROUNDS = 5
"""Times that rows are read again because a running sweep has written some meanwhile. Else an old
table could replace the last one of that sweep."""

logger = logging.getLogger(__name__)


def stamp_of(store: Store, record: Record) -> str:
    """Return a name for all that `results.parquet` is made of; any change gives another one."""
    stages = sorted(store.stages.ids()) if asks_tasks(record) else []
    rows = sorted(store.files.stamps(ROWS, ".json").items())
    made_of: list[object] = [record["sweep_id"], rows, stages, SCHEMA.names]
    return identity([*made_of, *filter(None, [grid_columns(record)])])


def write_results(store: Store, rows: Iterable[Row], stamp: str) -> None:
    """Write `results.parquet`.

    Args:
        store: the store.
        rows: its rows as `gather` returns them.
        stamp: from `stamp_of` before the rows were read, so that later rows count as changes.
    """
    write_parquet(rows, store.files.join(FILE), store.files.filesystem, stamp)


def is_made_of(store: Store, stamp: str) -> bool:
    """Return True if `results.parquet` has that stamp."""
    return made_of(store.files.join(FILE), store.files.filesystem) == stamp


def refresh_results(store: Store, record: Record | None = None) -> None:
    """Write `results.parquet` again unless it is made of the rows that the store has now.

    Args:
        store: the store.
        record: the sweep whose grid is the current one; by default that which started last.
    """
    record = record or newest_record(store)
    if record is None:
        return
    for _ in range(ROUNDS):
        stamp = stamp_of(store, record)
        if is_made_of(store, stamp):
            return
        stored = store.rows.read()
        if not stored and not store.files.exists(FILE):
            return
        # Results of tasks are in manifests alone. To read all of these takes long.
        manifests = store.stages.inspect()[0] if any(map(asks_tasks, all_records(store))) else {}
        tasks, axes = task_columns(manifests), grid_columns(record)
        write_results(store, gather(stored, labels_of(record), tasks, axes), stamp)
