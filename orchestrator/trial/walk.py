"""The walk over the stages of one trial: missing ones run, rows are written as cells complete.

It runs in every rank of a worker group and knows nothing of Ray. A stage that fails ends its
branch, not the walk.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, cast

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
from orchestrator.trial.open_cells import OpenCells
from orchestrator.trial.runners import RUNNERS
from orchestrator.trial.workspace import Workspace

logger = logging.getLogger(__name__)
T = TypeVar("T")

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
        self.cells = OpenCells(job.cells)
        self.looks: dict[str | None, list[Stage]] = {}
        """Evaluations by the stage whose weights they look at."""
        for stage in job.known:
            if isinstance(stage.work, Evaluate):
                self.looks.setdefault(stage.parent, []).append(stage)
        self.failed: dict[str, str] = {}
        self.stopped: dict[str, tuple[str, float]] = {}
        """For each stopped stage: the reason, and the perplexity that was too high."""
        self.restored: list[str] = []
        self.num_settled = 0

    def run(self) -> None:
        """Run all stages in order; write each cell's rows as soon as its last stage is done."""
        uses = Counter(stage.parent for stage in self.job.stages)
        parts = {*self.cells.parts, *(s.id for s in self.job.stages)} - {self.job.root.id}
        found = self.told(lambda: self.space.manifests.find_all(parts))
        self.write_all(self.cells.take_stored(found))
        for stage in self.job.stages:
            self.run_or_fail(stage)
            self.settle(stage)
            uses[stage.parent] -= 1
            if uses[stage.parent] == 0 and stage.parent is not None:
                self.let_go(stage.parent)
            if stage.work.stores_weights and not uses[stage.id]:
                self.let_go(stage.id)
        for stage_id in self.restored:
            self.let_go(stage_id)
        self.space.weights.forget()

    def told(self, question: Callable[[], T]) -> T:
        """Return rank 0's answer on all ranks (collective).

        Another sweep may publish into this store at any time, so rank 0 decides for all.
        """
        return cast(T, self.ranks.gather(question() if self.ranks.rank == 0 else None)[0])

    def run_or_fail(self, stage: Stage) -> None:
        """Run a stage unless it is stored already, an ancestor failed, or its branch is stopped."""
        if stage.parent in self.failed:
            self.failed[stage.id] = self.failed[stage.parent]
            return
        if stage.parent in self.stopped:
            self.stopped[stage.id] = self.stopped[stage.parent]
            return
        stored, passed = self.told(lambda: (self.is_stored(stage), self.passed_limit(stage)))
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
        for other in self.looks.get(stage.parent, ()):
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

    def settle(self, stage: Stage) -> None:
        """Write and report the rows of cells that this stage completes, or ends."""
        if stage.id in self.failed or stage.id in self.stopped:
            self.write_all(self.cells.take_ended(stage.id))
        elif self.told(lambda: self.space.manifests.find(stage.id) is not None):
            self.write_all(self.cells.take_stored({stage.id}))

    def write_all(self, cells: list[Cell]) -> None:
        """Write and report the rows of settled cells; all ranks report the same ones."""
        for cell in cells:
            self.num_settled += 1
            self.report(self.write_rows(cell) if self.ranks.rank == 0 else {})

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
