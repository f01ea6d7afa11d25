"""The record that a sweep leaves beside its results, and rows as that record names them.

`sweeps/ID.json` holds the resolved settings, versions, the command and the cells of the grid, so
whoever finds an out-dir knows what was asked for without resolving models and texts again. No Ray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.plan.identity import row_key
from orchestrator.plan.plan import Plan
from orchestrator.store.store import Store

FOLDER = "sweeps"
Record = dict[str, Any]
Labels = Mapping[str, Mapping[str, str]]


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
