"""Rows of results as columns, so that a value which many rows share stands in the page once."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

from orchestrator.results.schema import (
    EVALUATION_COLUMNS,
    SETTINGS_COLUMNS,
    Row,
    axes_in,
    key_of,
    shown_columns_of,
)

MANY_ROWS = 5_000
"""Rows from which a page leaves out long columns; `results.parquet` has them."""
LONG = ("config", "path", "stage_dir", "nll", "num_eval_words", "num_eval_bytes", "sweep_id")
LONG += ("word_perplexity", "byte_perplexity", "finished_at", "peak_memory_bytes")
CELL_COLUMNS = ("model", "method", "regime", "mask_structure", "sparsity", "round")
CELL_COLUMNS += (*EVALUATION_COLUMNS[:4], *SETTINGS_COLUMNS)
"""Columns that rows of one cell share over its seeds."""


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the columns that a page holds of these rows."""
    names = shown_columns_of(rows)
    return names if len(rows) < MANY_ROWS else [name for name in names if name not in LONG]


def plain(row: Row, column: str) -> Any:
    """Return a value as JSON has it; NaN and infinity become text."""
    value = row.get(column)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def packed_rows(rows: Sequence[Row], sweeps: Sequence[str]) -> dict[str, Any]:
    """Return rows as columns.

    Args:
        rows: Rows in the order in which lines name them.
        sweeps: The sweep of each row.

    Returns:
        `count`; `columns`, each a name with its values: `[values]` as they are, or `[distinct,
        places]`; among them `key`, `group` (equal for the seeds of a cell) and `sweep`.
    """
    names = columns_of(rows)
    columns = {
        "key": packed([key_of(row) for row in rows]),
        "group": packed([cell_of(row, sweep) for row, sweep in zip(rows, sweeps)]),
        "sweep": packed(list(sweeps)),
    }
    columns |= {name: packed([plain(row, name) for row in rows]) for name in names}
    return {"count": len(rows), "names": names, "columns": columns}


def cell_of(row: Row, sweep: str) -> str:
    """Return a short text that is equal for rows which differ in their seed only."""
    facts = [sweep, row["in_current_grid"], *(row.get(column) for column in CELL_COLUMNS)]
    facts += axes_in(row).items()
    return f"{zlib.crc32(json.dumps(facts).encode()):08x}"


def packed(values: Sequence[Any]) -> list[list[Any]]:
    """Return `[values]`, or `[distinct values, places]` where that is shorter."""
    places: dict[Any, int] = {}
    distinct: list[Any] = []
    indices = []
    for value in values:
        key = json.dumps(value) if isinstance(value, list) else (type(value), value)
        if key not in places:
            places[key] = len(distinct)
            distinct.append(value)
        indices.append(places[key])
    if len(distinct) == 1 and len(values) > 1:
        return [distinct, []]
    return [distinct, indices] if len(distinct) < 0.6 * len(values) else [list(values)]
