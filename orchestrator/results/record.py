"""The record that a sweep leaves beside its results, and rows as that record names them.

`sweeps/ID.json` holds the resolved settings, versions, the command and the cells of the grid. With
it an out-dir can be read without resolving models and texts again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import row_key
from orchestrator.plan.plan import Plan
from orchestrator.results import versions
from orchestrator.results.schema import AXIS_PREFIX
from orchestrator.store.files import read_object
from orchestrator.store.store import Store

FOLDER = "sweeps"
BLOCKS = "blocks"
"""Name under which a record has the settings of each block, where there are several."""
LINE = ("schedule", "budget", "within", "searched")
"""Names in a recorded cell, and columns: settings that blocks may call a cell's differently, ratios
that are searched, and if only a search asks for the cell."""
Record = dict[str, Any]
Labels = Mapping[str, Mapping[str, str]]


def describe_cells(plan: Plan) -> list[dict[str, Any]]:
    """Return the cells of a grid in its order, each with the keys of its rows and their texts."""
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
            **own,
            **({"also": others} if others else {}),
        }
        for cell in plan.cells.values()
        for own, *others in [describe_lines(plan, cell)]
    ]


def describe_lines(plan: Plan, cell: Cell) -> list[dict[str, Any]]:
    """Return what blocks call a cell on each line that it is on, the line of its own block first.

    Blocks share a line if they agree in all settings that the cell reads.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for block, settings in plan.asked_by[cell.id].items():
        axes, curve = plan.axes_of(cell, block), plan.curve_of(cell, block)
        within = plan.within[block] if curve is None else plan.within_of(curve)
        searched = curve is not None and cell.target.sparsity not in curve.coarse
        names = {"axes": axes, "schedule": settings.schedule, "budget": settings.budget}
        told = {name: value for name, value in names.items() if value}
        told |= {"within": list(within), "searched": searched} if within else {}
        found.setdefault(tuple(axes.items()), told)
    return [*found.values()]


def read_record(store: Store, sweep_id: str) -> Record:
    """Read the record of one sweep, which has to be there."""
    return json.loads(store.files.read_bytes(FOLDER, f"{sweep_id}.json"))


def all_records(store: Store) -> list[Record]:
    """Read the records of all sweeps of a store, those that can be read."""
    names = sorted(name for name in store.files.names(FOLDER) if name.endswith(".json"))
    contents = store.files.for_each(names, lambda name: store.files.try_read(FOLDER, name))
    return [read_object(data) or {} for data in contents if data is not None]


def recorded_models(store: Store) -> list[dict[str, Any]]:
    """Return the models of all sweeps of a store: the fields of their sources, and `row_name`.

    `facts` are with them if this code and these libraries found them.
    """
    return [
        {**source, "row_name": name, "facts": facts_of(record).get(name)}
        for record in all_records(store)
        for name, source in record.get("sources", {}).items()
    ]


def facts_of(record: Record) -> Mapping[str, Any]:
    """Return the recorded facts of models by name, none that another version has found."""
    facts = record.get("facts", {})
    return facts.get("models", {}) if facts.get("found_by") == finder() else {}


def finder() -> dict[str, str]:
    """Return what the facts of a model depend on beside its config: code and libraries."""
    return {"sources": versions.source_hash(), **libraries()}


@functools.cache
def libraries() -> dict[str, str]:
    """Return the versions of the libraries that describe models."""
    return {name: version(name) for name in ("torch", "transformers")}


def asks_tasks(record: Record) -> bool:
    """Return True if a sweep asked for zero-shot tasks."""
    return bool(record.get("config", {}).get("eval", {}).get("tasks"))


def find_record(store: Store, sweep_id: str) -> Record | None:
    """Read the record of one sweep; None if there is none that can be read."""
    return read_object(store.files.try_read(FOLDER, f"{sweep_id}.json") or b"")


def newest_record(store: Store) -> Record | None:
    """Read the record of the sweep that started last; None if there is none."""
    stamps = store.files.stamps(FOLDER, ".json")
    if not stamps:
        return None
    return find_record(store, max(stamps, key=stamps.__getitem__).removesuffix(".json"))


def grid_columns(record: Record) -> dict[str, Record]:
    """Return the columns that rows have by the grid that asks for them, by the id of the cell.

    They are the settings in which blocks differ, the ratios that a search follows, and whether only
    the search asks for the cell. `also` has the same columns for each further line with the cell.
    """
    found = {}
    for cell in record["cells"]:
        columns = line_columns(cell)
        if others := [line_columns(other) for other in cell.get("also", ())]:
            columns["also"] = json.dumps(others)
        if columns:
            found[cell["id"]] = columns
    return found


def line_columns(told: Record) -> Record:
    """Return the columns of what a record tells of a cell on one line."""
    axes = {f"{AXIS_PREFIX}{name}": value for name, value in told.get("axes", {}).items()}
    return axes | {name: told[name] for name in LINE if name in told}


def labels_of(record: Record) -> Labels:
    """Return the row keys of the grid, each with the protocol and text that the grid calls it."""
    protocol = record["config"]["grid"]["protocol"]
    return {
        key: {"protocol": protocol, "eval_text": text}
        for cell in record["cells"]
        for key, text in cell["rows"].items()
    }
