"""The walk over the stages of one trial: missing ones run, rows are written as cells complete.

It runs in every rank of a worker group and knows nothing of Ray. A stage that fails ends its
branch, not the walk.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from core.parallel import Ranks
from core.pruners.pruner import PruningError
from core.training.optimizer import TrainingError
from orchestrator.failure import DamagedStageError, is_out_of_memory, out_of_memory
from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import row_key
from orchestrator.plan.job import Job
from orchestrator.plan.kinds import Evaluate
from orchestrator.plan.stages import Stage
from orchestrator.results.rows import Outcome, build_row
from orchestrator.store.store import Store
from orchestrator.trial.clock import restart_peak
from orchestrator.trial.notice import Notice
from orchestrator.trial.runners import RUNNERS
from orchestrator.trial.workspace import Workspace

logger = logging.getLogger(__name__)

CELL_ERRORS = (PruningError, TrainingError)
"""Errors that fail a cell, on all ranks alike, and let the walk go on."""
REPAIRS = 3
"""Times that a damaged parent of a stage is computed again. The next damage ends the walk."""


class Walk:
    """One trial on one rank."""

    def __init__(
        self,
        job: Job,
        store: Store,
        ranks: Ranks,
        report: Callable[[dict[str, Any]], None],
        notice: Callable[[], bool] = lambda: False,
    ) -> None:
        """Walk over the stages of a job.

        Args:
            job: the trial.
            store: the store of its results.
            ranks: this process among the others.
            report: receives each cell that is settled, on all ranks.
            notice: returns True on all ranks once a machine of theirs will be taken away
                (collective).
        """
        self.job, self.store, self.ranks, self.report = job, store, ranks, report
        self.space = Workspace(job, store, ranks, Notice(notice))
        self.failed: dict[str, str] = {}
        self.stopped: dict[str, tuple[str, float]] = {}
        """For each stopped stage: the reason, and the perplexity that was too high."""
        self.written: set[str] = set()
        self.restored: list[str] = []

    def run(self) -> None:
        """Run all stages in order; write each cell's rows as soon as its last stage is done."""
        last_use = {stage.parent: i for i, stage in enumerate(self.job.stages)}
        self.settle_cells()
        for i, stage in enumerate(self.job.stages):
            self.run_or_fail(stage)
            self.settle_cells()
            for parent, use in last_use.items():
                if use == i and parent is not None:
                    self.let_go(parent)
            if stage.work.stores_weights and stage.id not in last_use:
                self.let_go(stage.id)
        for stage_id in self.restored:
            self.let_go(stage_id)
        self.space.weights.forget()

    def run_or_fail(self, stage: Stage) -> None:
        """Run a stage unless it is stored already, an ancestor failed, or its branch is stopped."""
        if stage.parent in self.failed:
            self.failed[stage.id] = self.failed[stage.parent]
            return
        if stage.parent in self.stopped:
            self.stopped[stage.id] = self.stopped[stage.parent]
            return
        # Another sweep may publish into this store at any time, so rank 0 decides for all.
        stored, passed = self.ranks.gather((self.is_stored(stage), self.passed_limit(stage)))[0]
        if stored:
            return
        if passed is not None:
            self.stopped[stage.id] = passed
            return
        try:
            self.run_stage(stage)
        except Exception as error:
            memory = is_out_of_memory(error)
            # One rank out of memory leaves the others waiting for it: then the group has to end.
            if not isinstance(error, CELL_ERRORS) and not (memory and self.ranks.size == 1):
                raise
            self.space.weights.forget()
            line = str(error).splitlines()[0]
            if memory:
                line = out_of_memory(self.job.workers.memory_bytes)
            self.failed[stage.id] = line
            logger.error("%s of %s failed: %s", stage.kind, stage.method, line)

    def is_stored(self, stage: Stage) -> bool:
        """Return True if a stage is in the store with all that the next ones need."""
        manifest = self.space.manifests.find(stage.id)
        if manifest is None:
            return False
        return not stage.work.stores_weights or not manifest.get("dropped")

    def run_stage(self, stage: Stage) -> None:
        """Run a stage; if the store lost or damaged its parent, compute the parent again first."""
        restart_peak(self.ranks.device)
        run = RUNNERS[type(stage.work)]
        for _ in range(REPAIRS):
            try:
                return run(self.space, stage)
            except DamagedStageError as damage:
                logger.warning("%s; computed again", damage)
                self.space.weights.forget()
                self.restore(self.job.stage(damage.stage_id))
        run(self.space, stage)

    def restore(self, stage: Stage) -> None:
        """Compute a stage's weights again if they are not stored, those of its ancestors first."""
        if self.space.weights.are_stored(stage.id):
            return
        assert stage.parent is not None
        self.restore(self.job.stage(stage.parent))
        self.run_stage(stage)
        self.restored.append(stage.id)

    def passed_limit(self, stage: Stage) -> tuple[str, float] | None:
        """Return why a stage is not run: its parent's perplexity is above the limit. Else None.

        Stages below the dense model and stages that only look at weights always run.
        """
        limit = self.job.limits.stop_perplexity
        if limit is None or not stage.work.stores_weights or stage.parent == self.job.root.id:
            return None
        for other in self.job.known:
            if not isinstance(other.work, Evaluate) or other.parent != stage.parent:
                continue
            manifest = self.space.manifests.find(other.id)
            value = math.nan if manifest is None else manifest["metrics"]["perplexity"]
            if manifest is not None and not value <= limit:
                at = self.job.sparsity_of(stage.parent)
                line = f"perplexity {value:.4g} at {at:g} is above --stop-perplexity {limit:g}"
                return line, value
        return None

    def let_go(self, stage_id: str) -> None:
        """Drop weights that the keep policy does not want, once no stage starts from them."""
        if self.ranks.rank == 0 and stage_id in self.job.drop:
            self.store.stages.drop_weights(stage_id)

    # Rows ---------------------------------------------------------------------------------------

    def settle_cells(self) -> None:
        """Write and report the rows of cells that are complete, failed or stopped."""
        settled = [cell.id for cell in self.job.cells if self.is_settled(cell)]
        # All ranks must report the same cells, so rank 0's list is used.
        settled = self.ranks.gather(settled)[0]
        for cell in self.job.cells:
            if cell.id in settled:
                self.written.add(cell.id)
                self.report(self.write_rows(cell) if self.ranks.rank == 0 else {})

    def is_settled(self, cell: Cell) -> bool:
        """Return True if a cell's rows can be written and are not yet."""
        stages = cell.all_stages()
        if cell.id in self.written:
            return False
        if any(s in self.failed or s in self.stopped for s in stages):
            return True
        return all(self.space.manifests.find(s) is not None for s in stages[1:])

    def write_rows(self, cell: Cell) -> dict[str, Any]:
        """Write a cell's rows; return what the report says of it."""
        outcome = self.outcome_of(cell)
        perplexities = []
        for evaluation in cell.evaluations:
            row = build_row(self.job, cell, evaluation, self.space.manifests.find, outcome)
            perplexities.append(row["perplexity"])
            self.store.rows.put(row_key(cell.id, evaluation), row)
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
            "cells_done": len(self.written),
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
        broken = {s for s in cell.all_stages() if s in self.failed}
        shortest = min(
            len(other.stages) for other in self.job.cells if broken & {*other.all_stages()}
        )
        return "failed" if len(cell.stages) == shortest else "not_run"
