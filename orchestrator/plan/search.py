"""The search of a whole plan: the sparsities that its curves ask for next, as far as rows tell.

Each evaluation text is searched by itself, and all of them share their cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.plan.cell import DENSE, Cell
from orchestrator.plan.crossing import Crossing, Ratios, follow, most_asked
from orchestrator.plan.plan import CurveName, Plan
from orchestrator.plan.planner import Extra

Rows = Mapping[str, Mapping[str, Any]]
"""Rows by key, only those that stand: no row of a cell that is to run again."""


def asked(plan: Plan, rows: Rows) -> dict[int, tuple[Extra, ...]]:
    """Return by block what the search adds to the grid, with the next cells to run.

    Args:
        plan: the plan of the grid, with or without cells that the search has added before.
        rows: what is measured.
    """
    found: dict[int, dict[Extra, None]] = {}
    for name, crossing in crossings(plan, rows):
        for sparsity in crossing.asked:
            extra = Extra(name.model, name.method, name.regime, sparsity)
            for block in plan.curves[name].blocks:
                found.setdefault(block, {})[extra] = None
    return {block: tuple(extras) for block, extras in found.items()}


def most_further(plan: Plan, rows: Rows) -> int:
    """Return the most cells that the search may add to those that the plan has already."""
    count = 0
    for name, crossing in crossings(plan, rows):
        if crossing.next is not None:
            curve = plan.curves[name]
            planned = sum(sparsity in curve.cells for sparsity in crossing.asked)
            seeds = max(map(len, curve.cells.values()))
            count += seeds * (most_asked(curve.coarse) - planned)
    return count


def crossings(plan: Plan, rows: Rows) -> Iterator[tuple[CurveName, Crossing]]:
    """Yield each curve with how far each of its searches has come."""
    dense = {cell.stages[0]: cell for cell in plan.cells.values() if cell.regime == DENSE}
    for name, curve in plan.curves.items():
        first = next(cell for cells in curve.cells.values() for cell in cells.values())
        for text, key in enumerate(dense[first.stages[0]].row_keys()):
            reference = rows.get(key, {}).get("perplexity")
            points: dict[float, Ratios] = {}
            if reference is not None and math.isfinite(reference):
                measured = ((s, ratios(c, rows, text, reference)) for s, c in curve.cells.items())
                points = {s: found for s, found in measured if found is not None}
            for ratio in plan.within_of(curve):
                yield name, follow(points, curve.coarse, ratio)


def ratios(cells: Mapping[str, Cell], rows: Rows, text: int, dense: float) -> Ratios | None:
    """Return the ratios of one sparsity to the dense perplexity by seed; None if one lacks."""
    found: dict[int | None, float] = {}
    for cell in cells.values():
        row = rows.get(cell.row_keys()[text])
        if row is None or row["status"] == "not_run":
            return None
        found[cell.seed] = row["perplexity"] / dense if row["status"] == "done" else math.inf
    return found
