"""Rows of a store as results show them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.plan.identity import row_key
from orchestrator.plan.stages import TASKS_KIND
from orchestrator.results.record import Labels
from orchestrator.results.schema import TASK_PREFIX, Row
from orchestrator.store.store import Store


def copy_shared_rows(store: Store, labels: Labels) -> None:
    """Stores a copy, under these labels, of each row that a sweep of other labels ran.

    Stages are named by what determines their numbers, so two protocols that read a text alike share
    them. Each keeps a row of its own.
    """
    stored = store.rows()
    for key, mine in labels.items():
        row = stored.get(key)
        if row is not None and mine != {name: row[name] for name in mine}:
            copy = {**row, **mine, "_copy_of": key}
            store.put_row(row_key(key, json.dumps(dict(mine), sort_keys=True)), copy)


def gather(
    stored: Mapping[str, Row],
    labels: Labels | None,
    tasks: Mapping[str, Mapping[str, float]] | None = None,
) -> list[Row]:
    """Rows of a store as results show them: dense perplexity filled in, the grid's own marked.

    Args:
        stored: rows by key, with names that stay in the store (an underscore first).
        labels: from `labels_of`; None takes all rows for the grid's.
        tasks: columns of task results by the stage that has the weights.
    """
    rows: list[tuple[bool, Row]] = []
    for key, row in stored.items():
        source = row.get("_copy_of", key)
        if source not in stored:
            continue  # What it is a copy of is being computed again.
        mine = {name: row[name] for name in ("protocol", "eval_text")}
        current = labels is None or labels.get(source) == mine
        rows.append((current, {**stored[source], **mine}))
    dense = [(current, row) for current, row in rows if row["regime"] == "dense"]
    return [
        {
            **{name: value for name, value in row.items() if not name.startswith("_")},
            **(tasks or {}).get(row["stage_id"], {}),
            "in_current_grid": current,
            "dense_perplexity": (dense_of(row, current, dense) or {}).get("perplexity"),
        }
        for current, row in rows
    ]


def dense_of(row: Row, current: bool, dense: Iterable[tuple[bool, Row]]) -> Row | None:
    """The row of the dense model that a row's perplexity compares with.

    Rows name the evaluation of that one. Those from before they did are given the likeliest: a row
    of the grid that of the grid, another that of the sweep that it came from.

    Args:
        row: of any cell.
        current: whether it belongs to the current grid.
        dense: dense rows, with whether they do.
    """
    if "_dense_evaluation" in row:
        wanted = row["_dense_evaluation"]
        return next((other for _, other in dense if other.get("_evaluation") == wanted), None)

    def likeness(pair: tuple[bool, Row]) -> tuple[Any, ...]:
        in_grid, other = pair
        same_sweep = other.get("sweep_id") == row.get("sweep_id")
        return current and in_grid, same_sweep, in_grid, other.get("finished_at") or ""

    alike = (pair for pair in dense if may_compare(row, pair[1]))
    return max(alike, key=likeness, default=(False, None))[1]


def may_compare(row: Row, dense: Row) -> bool:
    """Whether nothing that both rows record speaks against one evaluation of one model."""
    names = ("model", "eval_text", "eval_seq_len", "eval_stride", "protocol")
    if any(row[name] != dense[name] for name in names):
        return False
    # Training leaves weights in float32, whatever the dtype of the sweep was.
    known = ("num_eval_tokens",) if row.get("num_finetune_tokens") else ("num_eval_tokens", "dtype")
    pairs = ((row.get(name), dense.get(name)) for name in known)
    return all(mine == other or None in (mine, other) for mine, other in pairs)


def task_columns(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Columns `task:NAME:METRIC` by the stage that has the weights; NAME[:LIMIT] where limited."""
    columns: dict[str, dict[str, float]] = {}
    for manifest in manifests.values():
        if manifest["kind"] == TASKS_KIND:
            limit = manifest["fields"]["limit"]
            name = manifest["label"] + ("" if limit is None else f"[:{limit}]")
            mine = columns.setdefault(manifest["parent"], {})
            for metric, value in manifest["results"].items():
                mine[f"{TASK_PREFIX}{name}:{metric}"] = value
    return columns
