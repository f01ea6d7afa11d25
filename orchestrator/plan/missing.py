"""Missing work: cells without a row or a stage, as far as a store's rows and manifests say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.plan.cell import Cell
from orchestrator.plan.plan import Plan


def to_run(
    cell: Cell,
    rows: Mapping[str, dict[str, Any]],
    stored: set[str],
    retry_failed: bool,
    stop_perplexity: float | None,
) -> bool:
    """Return True if a cell lacks a row or a stage, was interrupted, or is to be tried again.

    Args:
        cell: the cell.
        rows: all rows of the store by key.
        stored: stages whose metrics are in the store.
        retry_failed: True if failed cells run again.
        stop_perplexity: the limit that cells are given up at; a higher one than theirs frees them.
    """
    for key in cell.row_keys():
        row = rows.get(key)
        if row is None or row.get("_interrupted"):
            return True
        # A stage set aside as damaged: what a row says of its model has to be true. And a cell
        # that failed here may be done by now: another sweep computed it at the same time.
        is_whole = stored.issuperset(cell.all_stages()[1:])
        if row["status"] in ("failed", "not_run") and (retry_failed or is_whole):
            return True
        if row["status"] == "stopped":
            if stop_perplexity is None or row["_stopped_at"] <= stop_perplexity:
                return True
        if row["status"] == "done" and not is_whole:
            return True
    return False


def dropped_cells(plan: Plan, manifests: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """Return the cells that are done and whose own weights an earlier keep policy dropped."""
    lost = {stage for stage, manifest in manifests.items() if manifest.get("dropped")}
    return [cell for cell in plan.cells.values() if cell.stages[-1] in lost]


def cells_for_tasks(plan: Plan, manifests: Mapping[str, Any], kept: Collection[str]) -> list[Cell]:
    """Return the finished cells whose dropped weights a missing task starts from.

    Args:
        plan: the whole plan.
        manifests: manifests of the store by stage.
        kept: stages whose weights are in the store.
    """
    missing = {stage.parent for stage in plan.task_stages() if stage.id not in manifests}
    lacking = {stage for stage in missing if stage in manifests and stage not in kept}
    return [cell for cell in plan.cells.values() if cell.stages[-1] in lacking]
