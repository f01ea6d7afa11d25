"""Several sweeps side by side: the same cells in each, and the settings in which they differ.

Cells are the same where model, evaluation, method, regime and target are. Other settings may
differ: their effect is what a reader wants to see, so they are listed. Perplexities of different
protocols, windows or texts never stand in one line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.results.curves import Curve, curves_from_rows
from orchestrator.results.points import Point
from orchestrator.results.record import Record
from orchestrator.results.schema import Row, regime_order

Key = tuple[str, str, str, str, str]
"""Model, evaluation, method, regime, target."""
LEFT_OUT = ("output.",)
"""Prefixes of settings that say where results go; they change no result."""


def side_by_side(
    grids: Sequence[Iterable[Row]], records: Sequence[Record | None]
) -> dict[str, list[Any]]:
    """Return the comparison as plain JSON values.

    Args:
        grids: Rows of each sweep; those of its current grid are compared.
        records: Each sweep's record, None if it has none.

    Returns:
        `settings`, each a name and one text a sweep, only those that differ; and `cells`, each the
        key's texts and one entry a sweep: `[mean, std, seeds, status]`, or None where the sweep has
        no such cell.
    """
    points = [cells_of(rows) for rows in grids]
    order = sorted({key: place for cells in points for key, (place, _) in cells.items()}.items())
    order.sort(key=lambda item: item[1])
    return {
        "settings": differing_settings(records),
        "cells": [
            [list(key), [told(cells[key][1]) if key in cells else None for cells in points]]
            for key, _ in order
        ],
    }


def cells_of(rows: Iterable[Row]) -> dict[Key, tuple[tuple[Any, ...], Point]]:
    """Return the points of a sweep by key, each with its place in the order."""
    found: dict[Key, tuple[tuple[Any, ...], Point]] = {}
    for curve in curves_from_rows(rows):
        for point in curve.points:
            found.setdefault(key_of(curve, point), (place_of(curve, point), point))
    return found


def key_of(curve: Curve, point: Point) -> Key:
    """Return the key under which points of several sweeps are the same cell."""
    facet = (curve.model, str(curve.evaluation))
    return (*facet, curve.method, curve.regime, point.target.label)


def place_of(curve: Curve, point: Point) -> tuple[Any, ...]:
    """Sort cells: dense first, then by target, method and regime."""
    facet = (curve.model, str(curve.evaluation), curve.method != "dense")
    return (*facet, *point.target.order, curve.method, regime_order(curve.regime))


def told(point: Point) -> list[Any]:
    """Return a point as JSON values."""
    mean = point.perplexity
    known = None if mean is None or not math.isfinite(mean) else mean
    return [known, point.std, point.num_seeds, point.status]


def differing_settings(records: Sequence[Record | None]) -> list[tuple[str, list[str]]]:
    """Return settings, inputs and versions that are not the same in all sweeps."""
    flat = [flattened(settings_of(record)) if record else {} for record in records]
    names = dict.fromkeys(name for settings in flat for name in settings)
    rows = [(name, [settings.get(name, "not recorded") for settings in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def settings_of(record: Record) -> dict[str, Any]:
    """Return all facts of a record that may change numbers."""
    models = record.get("models", {})
    identities = {name: inputs["identity"] for name, inputs in models.items()}
    return {**record["config"], "model": identities, "versions": record.get("versions", {})}


def flattened(settings: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return nested settings as `group.name`, values as text."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            found |= flattened(value, f"{path}.")
        elif not path.startswith(LEFT_OUT):
            found[path] = value if isinstance(value, str) else json.dumps(value)
    return found
