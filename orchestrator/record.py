"""The record that a sweep leaves beside its results, and rows as that record names them.

`sweeps/ID.json` holds the resolved settings, versions, the command and the cells of the grid, so
whoever finds an out-dir knows what was asked for without resolving models and texts again. No Ray.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator import versions
from orchestrator.plan import Plan
from orchestrator.results import Row, row_key
from orchestrator.store import Store

if TYPE_CHECKING:
    from orchestrator.sweep import Sweep

FOLDER = "sweeps"
Record = dict[str, Any]
Labels = Mapping[str, Mapping[str, str]]


def write_record(sweep: Sweep) -> None:
    """The resolved settings, versions and command beside the results."""
    record = {
        "sweep_id": sweep.id,
        "command": shlex.join(["python", *sys.argv]),
        "config": sweep.config.to_dict(),
        "models": {m.inputs.name: dataclasses.asdict(m.inputs) for m in sweep.models},
        "sources": {m.inputs.name: dataclasses.asdict(m.source) for m in sweep.models},
        "cells": describe_cells(sweep.plan),
        "versions": versions.environment(),
    }
    data = json.dumps(record, indent=1, default=str).encode()
    sweep.store.write_bytes(data, FOLDER, f"{sweep.id}.json")


def describe_cells(plan: Plan) -> list[dict[str, Any]]:
    """The cells of a grid in its order, each with the keys of its rows and their texts."""
    return [
        {
            "id": cell.id,
            "model": cell.model,
            "method": cell.method,
            "regime": cell.regime,
            "sparsity": cell.target.sparsity,
            "mask_structure": cell.target.mask_structure,
            "seed": cell.seed,
            "round": cell.round,
            "rows": {row_key(cell.id, e): plan.stages[e].text for e in cell.evaluations},
        }
        for cell in plan.cells.values()
    ]


def read_record(store: Store, sweep_id: str) -> Record:
    """The record of one sweep."""
    return json.loads(store.read_bytes(FOLDER, f"{sweep_id}.json"))


def labels_of(record: Record) -> Labels | None:
    """Row keys of the grid with what its rows are called there; None if the record is too old."""
    if "cells" not in record:
        return None
    protocol = record["config"]["grid"]["protocol"]
    return {
        key: {"protocol": protocol, "eval_text": text}
        for cell in record["cells"]
        for key, text in cell["rows"].items()
    }


def name_of(cell: Mapping[str, Any]) -> str:
    """A cell, or a row of it, in words."""
    target = cell["mask_structure"] or f"{cell['sparsity']:g}"
    if cell["method"] == "dense":
        target = f"round {cell['round']}" if cell["regime"] != "dense" else ""
    seed = "" if cell["seed"] is None else f"seed {cell['seed']}"
    words = (cell["model"], cell["method"], cell["regime"], target, seed)
    return " ".join(word for word in words if word)


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
    dense = {
        (row["model"], evaluation_of(row)): row["perplexity"]
        for _, row in rows
        if row["regime"] == "dense"
    }
    return [
        {
            **{name: value for name, value in row.items() if not name.startswith("_")},
            **(tasks or {}).get(row["stage_id"], {}),
            "in_current_grid": current,
            "dense_perplexity": dense.get((row["model"], evaluation_of(row))),
        }
        for current, row in rows
    ]


def evaluation_of(row: Row) -> tuple[Any, ...]:
    """What makes two perplexities comparable."""
    return tuple(row[name] for name in ("eval_text", "eval_seq_len", "eval_stride", "protocol"))
