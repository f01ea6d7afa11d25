"""Rows of a trial's cells, written as soon as their last stage is stored, failed or stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import row_key
from orchestrator.plan.stages import Stage
from orchestrator.results.rows import Outcome, build_row, put_row
from orchestrator.trial.open_cells import OpenCells
from orchestrator.trial.workspace import Workspace


class CellRows:
    """The cells of one trial, and the stages that failed or were stopped."""

    def __init__(self, space: Workspace, report: Callable[[dict[str, Any]], None]) -> None:
        self.space, self.report = space, report
        self.cells = OpenCells(space.job.cells)
        self.failed: dict[str, str] = {}
        """For each failed stage, and all below it, the error in one line."""
        self.stopped: dict[str, tuple[str, float]] = {}
        """For each stopped stage: the reason, and the perplexity that was too high."""
        self.num_settled = 0

    def ended_with(self, parent: str | None, stage_id: str) -> bool:
        """Return True, and note the same of a stage, if its parent has failed or was stopped."""
        if parent in self.failed:
            self.failed[stage_id] = self.failed[parent]
        elif parent in self.stopped:
            self.stopped[stage_id] = self.stopped[parent]
        return stage_id in self.failed or stage_id in self.stopped

    def settle_stored(self, stages: Collection[str]) -> None:
        """Write and report the rows of cells that these stored stages complete (collective)."""
        self.write_all(self.cells.take_stored(stages))

    def settle(self, stage: Stage) -> None:
        """Write and report the rows of cells that a stage completes, or ends (collective)."""
        if stage.id in self.failed or stage.id in self.stopped:
            self.write_all(self.cells.take_ended(stage.id))
        elif self.space.told(lambda: self.space.manifests.find(stage.id) is not None):
            self.settle_stored({stage.id})

    def write_all(self, cells: list[Cell]) -> None:
        """Write and report the rows of settled cells; all ranks report the same ones."""
        for cell in cells:
            self.num_settled += 1
            self.report(self.write_rows(cell) if self.space.ranks.rank == 0 else {})

    def write_rows(self, cell: Cell) -> dict[str, Any]:
        """Write a cell's rows; return what the report says of it."""
        outcome = self.outcome_of(cell)
        perplexities = []
        for evaluation in cell.evaluations:
            row = build_row(self.space.job, cell, evaluation, self.space.manifests.find, outcome)
            perplexities.append(row["perplexity"])
            put_row(self.space.store.rows, row_key(cell.id, evaluation), row)
        return {
            "cell": cell.id,
            "method": cell.method,
            "regime": cell.regime,
            "sparsity": cell.target.sparsity,
            "mask_structure": cell.target.mask_structure or "",
            "round": cell.round,
            "perplexity": perplexities[0],
            "status": outcome.status,
            "error": outcome.error or "",
            "cells_done": self.num_settled,
        }

    def outcome_of(self, cell: Cell) -> Outcome:
        """Return the outcome of a settled cell."""
        stages = cell.all_stages()
        error = next((self.failed[s] for s in stages if s in self.failed), None)
        if error is not None:
            return Outcome(self.failure_status(cell), error)
        stop = next((self.stopped[s] for s in stages if s in self.stopped), None)
        if stop is not None:
            return Outcome("stopped", stop[0], stopped_at=stop[1])
        return Outcome("done")

    def failure_status(self, cell: Cell) -> str:
        """Return `failed` for the shortest affected cells, `not_run` for longer ones."""
        broken = [stage for stage in cell.all_stages() if stage in self.failed]
        shortest = min(self.cells.shortest[stage] for stage in broken)
        return "failed" if len(cell.stages) == shortest else "not_run"
