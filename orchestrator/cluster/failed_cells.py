"""Cells that a trial gives up on, and the job that is left."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

from orchestrator.cluster.diagnosis import Failure
from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import row_key
from orchestrator.plan.job import Job
from orchestrator.results.rows import Outcome, build_row, last_outcome, put_row
from orchestrator.store.store import Store

logger = logging.getLogger(__name__)


def progress(job: Job, store: Store, begun: Set[str] = frozenset()) -> tuple[int, int]:
    """Return how far a job has come: stages missing, and steps of the round that it is in.

    Args:
        job: the job.
        store: the store of its results.
        begun: the stage that the group was at, if its claim told; else it is the first missing.
    """
    stored = store.stages.ids()
    missing = [stage.id for stage in job.stages if stage.id not in stored]
    at = [stage for stage in missing if stage in begun] or missing
    steps = store.checkpoints.steps(at[0]) if at else set()
    return len(missing), max((int(name) for name in steps if name.isdigit()), default=0)


def rows_of(job: Job, store: Store) -> dict[str, dict[str, Any]]:
    """Return the rows of a job's cells by key; a store may hold thousands of others."""
    return store.rows.read({key for cell in job.cells for key in cell.row_keys()})


def is_settled(job: Job, cell: Cell, rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return True if this attempt has written all rows of a cell; rows of others do not count."""
    found = (rows.get(key, {}) for key in cell.row_keys())
    return all(row.get("_attempt") == job.run.attempt for row in found)


def give_up_on_next(
    job: Job, store: Store, failure: Failure, begun: Set[str] = frozenset()
) -> Job | None:
    """Mark the cells at the first missing stage as failed, or not run, and leave them out.

    If the group's claim tells at which stage it was, that one counts: other sweeps may compute
    earlier ones.

    Returns:
        The job without them; None where no cell is left to give up.
    """
    rows = rows_of(job, store)
    open_cells = [cell for cell in job.cells if not is_settled(job, cell, rows)]
    if not open_cells:
        return None
    manifests = store.stages.manifests(job.by_id)
    order = {stage.id: i for i, stage in enumerate(job.stages) if stage.id not in manifests}

    def next_stage(cell: Cell) -> int:
        return min((order[s] for s in cell.all_stages() if s in order), default=-1)

    stuck = min(next_stage(cell) for cell in open_cells)
    affected = [
        cell for cell in open_cells if not {*cell.all_stages()}.isdisjoint(begun & {*order})
    ]
    affected = affected or [cell for cell in open_cells if next_stage(cell) == stuck]
    shortest = min(len(cell.stages) for cell in affected)
    for cell in affected:
        status = "failed" if len(cell.stages) == shortest else "not_run"
        outcome = Outcome(status, failure.line, failure.interrupted)
        for evaluation in cell.evaluations:
            row = build_row(job, cell, evaluation, manifests.get, outcome)
            put_row(store.rows, row_key(cell.id, evaluation), row)
    logger.error("gave up on %d cells: %s", len(affected), failure.line)
    done = {cell.id for cell in job.cells} - {cell.id for cell in open_cells}
    return without(job, done | {cell.id for cell in affected})


def without_failed(job: Job, store: Store) -> Job | None:
    """Return the job without the cells that have failed in this attempt; None if none is left."""
    rows = rows_of(job, store)

    def has_failed(cell: Cell) -> bool:
        if not is_settled(job, cell, rows):
            return False
        found = [last_outcome(rows[key]) for key in cell.row_keys()]
        return all(
            row["status"] in ("failed", "not_run") and not row["_interrupted"] for row in found
        )

    return without(job, {cell.id for cell in job.cells if has_failed(cell)})


def without(job: Job, cell_ids: set[str]) -> Job | None:
    """Return the job of the other cells, with the stages of these; None if none is left."""
    cells = tuple(cell for cell in job.cells if cell.id not in cell_ids)
    wanted = {stage for cell in cells for stage in cell.all_stages()}
    stages = tuple(stage for stage in job.stages if stage.id in wanted)
    return replace(job, cells=cells, stages=stages) if cells else None
