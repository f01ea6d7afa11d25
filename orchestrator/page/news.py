"""Differences between two contents of a page, so that a live page sends only what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LISTS = ("boards", "lines")
"""Parts that are lists of items with an `id`."""
PARTS = ("head", "dimensions", "published", "settings", "commands", "sweeps", "all_pairs")
PARTS += ("other_devices",)
"""Small parts that are sent whole."""


def news_between(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the page lacks to go from one contents to another.

    Returns:
        None if rows do not only follow those that the page has; then all is sent.
    """
    rows = new_rows(old["rows"], new["rows"])
    if rows is None:
        return None
    changed: dict[str, Any] = {"rows": rows, "order": {}}
    for name in LISTS:
        known = {item["id"]: item for item in old[name]}
        changed[name] = [item for item in new[name] if known.get(item["id"]) != item]
        changed["order"][name] = [item["id"] for item in new[name]]
    changed["pairs"] = {k: v for k, v in new["pairs"].items() if old["pairs"].get(k) != v}
    changed["parts"] = {name: new[name] for name in PARTS if new.get(name) != old.get(name)}
    changed["details"] = new_details(old["details"], new["details"])
    return changed


def new_rows(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return rows that were added or changed, after their places; None if any went away."""
    before, count = values_of(old, "key"), old["count"]
    if values_of(new, "key")[:count] != before or list(old["columns"]) != list(new["columns"]):
        return None
    columns = {name: values_of(new, name) for name in new["columns"]}
    places = set(range(count, new["count"]))
    for name, values in columns.items():
        known = values_of(old, name)
        places |= {i for i in range(count) if known[i] != values[i]}
    return {
        "count": new["count"],
        "columns": list(columns),
        "values": [[i, *(columns[name][i] for name in columns)] for i in sorted(places)],
    }


def values_of(rows: Mapping[str, Any], name: str) -> Sequence[Any]:
    """Return the values of a packed column, one for each row."""
    values, *places = rows["columns"][name]
    if not places:
        return values
    indices = places[0] or [0] * rows["count"]
    return [values[i] for i in indices]


def new_details(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details of stages that the page does not have yet."""
    if not new:
        return {}
    found = {
        name: {
            key: value for key, value in new[name].items() if old.get(name, {}).get(key) != value
        }
        for name in ("stages", "layers", "losses")
    }
    return {**found, "names": new["names"]}
