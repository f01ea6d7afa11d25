"""Walks the stages of one trial: what is missing is run, rows are written as cells complete.

Runs in every rank of a worker group and knows nothing of Ray. A stage that fails ends its branch,
not the walk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from core.finetune import TrainingError
from core.parallel import Ranks
from core.pruners import PruningError
from orchestrator.cell import Cell
from orchestrator.job import Job
from orchestrator.results import row_key
from orchestrator.rows import build_row
from orchestrator.stages import RUNNERS
from orchestrator.store import Store
from orchestrator.workspace import Workspace

logger = logging.getLogger(__name__)

CELL_ERRORS = (PruningError, TrainingError, MemoryError, torch.OutOfMemoryError)
"""What fails a cell, on all ranks alike, and lets the walk go on."""


class Walk:
    """One trial on one rank."""

    def __init__(
        self, job: Job, store: Store, ranks: Ranks, report: Callable[[dict[str, Any]], None]
    ) -> None:
        self.job, self.store, self.ranks, self.report = job, store, ranks, report
        self.space = Workspace(job, store, ranks)
        self.failed: dict[str, str] = {}
        self.written: set[str] = set()

    def run(self) -> None:
        """All stages in order, each cell's rows as soon as its last stage is done."""
        last_use = {stage.parent: i for i, stage in enumerate(self.job.stages)}
        self.settle_cells()
        for i, stage in enumerate(self.job.stages):
            self.run_or_fail(i)
            self.settle_cells()
            for parent, use in last_use.items():
                if use == i and parent is not None:
                    self.let_go(parent)
            if stage.kind != "evaluate" and stage.id not in last_use:
                self.let_go(stage.id)

    def run_or_fail(self, index: int) -> None:
        """Runs a stage unless it is stored already or an ancestor failed."""
        stage = self.job.stages[index]
        if stage.parent in self.failed:
            self.failed[stage.id] = self.failed[stage.parent]
            return
        manifest = self.space.manifest(stage.id)
        if manifest is not None and (stage.kind == "evaluate" or not manifest.get("dropped")):
            return
        try:
            RUNNERS[stage.kind](self.space, stage)
        except CELL_ERRORS as error:
            self.space.forget()
            self.failed[stage.id] = self.describe(error)
            logger.error("%s of %s failed: %s", stage.kind, stage.method, self.failed[stage.id])

    def describe(self, error: BaseException) -> str:
        """One line for the row."""
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            gib = self.job.memory_bytes / 2**30
            return f"out of memory; estimated {gib:.1f} GiB a worker: use more --num-workers"
        return str(error).splitlines()[0]

    def let_go(self, stage_id: str) -> None:
        """Drops weights that the keep policy does not want, once no stage starts from them."""
        if self.ranks.rank == 0 and stage_id in self.job.drop:
            self.store.drop_weights(stage_id)

    def settle_cells(self) -> None:
        """Writes the rows of cells that are complete or have failed, and reports them."""
        for cell in self.job.cells:
            if cell.id in self.written:
                continue
            error = next((self.failed[s] for s in cell.all_stages() if s in self.failed), None)
            if error is None and any(self.space.manifest(s) is None for s in cell.all_stages()[1:]):
                continue
            self.written.add(cell.id)
            status = "done" if error is None else self.failure_status(cell)
            perplexities = []
            for evaluation in cell.evaluations:
                row = build_row(self.job, cell, evaluation, self.space.manifest, status, error)
                perplexities.append(row["perplexity"])
                if self.ranks.rank == 0:
                    self.store.put_row(row_key(cell.id, evaluation), row)
            self.report(
                {
                    "cell": cell.id,
                    "method": cell.method,
                    "regime": cell.regime,
                    "sparsity": cell.target.sparsity,
                    "mask_structure": cell.target.mask_structure or "",
                    "round": cell.round,
                    "perplexity": perplexities[0],
                    "status": status,
                    "error": error or "",
                    "cells_done": len(self.written),
                }
            )

    def failure_status(self, cell: Cell) -> str:
        """`failed` for the first cell that a failed stage stops, `not_run` for those behind it."""
        broken = {s for s in cell.all_stages() if s in self.failed}
        shortest = min(
            len(other.stages) for other in self.job.cells if broken & {*other.all_stages()}
        )
        return "failed" if len(cell.stages) == shortest else "not_run"
