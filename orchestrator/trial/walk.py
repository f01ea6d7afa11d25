"""The walk over the stages of one trial: missing ones run, rows are written as cells complete.

It runs in every rank of a worker group and knows nothing of Ray. A stage that fails ends its
branch, not the walk. Stages that another sweep on this store computes now come last: the walk waits
for them and reads them.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from core.models.anatomy import AnatomyError
from core.pruners.pruner import PruningError
from core.ranks import Ranks
from core.training.optimizer import TrainingError
from orchestrator.failure import DamagedStageError, is_out_of_memory, out_of_memory
from orchestrator.plan.job import Job
from orchestrator.plan.kinds import Evaluate
from orchestrator.plan.stages import Stage
from orchestrator.results.keeping import Keeping
from orchestrator.store.claims import Claims
from orchestrator.store.store import Store
from orchestrator.trial.cell_rows import CellRows
from orchestrator.trial.clock import restart_peak
from orchestrator.trial.notice import Notice
from orchestrator.trial.runners import RUNNERS
from orchestrator.trial.workspace import Workspace

logger = logging.getLogger(__name__)

CELL_ERRORS = (AnatomyError, PruningError, TrainingError)
"""Errors that fail a cell, on all ranks alike, and let the walk go on."""
REPAIRS = 3
"""Times that a damaged parent of a stage is computed again. The next damage ends the walk."""
WAIT_SECONDS = 5.0
"""Longest pause between two looks at stages that others compute; the first pauses are short."""


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
        self.job, self.store, self.ranks = job, store, ranks
        self.space = Workspace(job, store, ranks, Notice(notice))
        self.rows = CellRows(self.space, report)
        self.claims = Claims(store.files, job.group)
        """The claims of rank 0, which decides for all."""
        self.children: dict[str | None, list[Stage]] = {}
        """The stages of the job by the one that they start from."""
        for stage in job.stages:
            self.children.setdefault(stage.parent, []).append(stage)
        self.uses = Counter(stage.parent for stage in job.stages)
        """For each stage the number of stages still to come that start from it."""
        self.looks: dict[str | None, list[Stage]] = {}
        """Evaluations by the stage whose weights they look at."""
        for stage in job.known:
            if isinstance(stage.work, Evaluate):
                self.looks.setdefault(stage.parent, []).append(stage)
        self.holders: dict[str, str] = {}
        """For each stage that was not free, who computes it."""
        self.keeping = Keeping(store, job.run.sweep_id)
        self.restored: list[str] = []

    def run(self) -> None:
        """Run all stages; write each cell's rows as soon as its last stage is done."""
        parts = {*self.rows.cells.parts, *(s.id for s in self.job.stages)} - {self.job.root.id}
        found = self.space.told(lambda: self.space.manifests.find_all(parts))
        self.rows.settle_stored(found)
        stages, waited = [*self.job.stages], 0.0
        try:
            while stages:
                left = self.run_free(stages)
                waited = self.wait(left, waited) if len(left) == len(stages) else 0.0
                stages = left
        finally:
            self.claims.close()
        for stage_id in self.restored:
            self.let_go(stage_id)
        self.space.weights.forget()

    def run_free(self, stages: list[Stage]) -> list[Stage]:
        """Run in order the stages that nobody else computes; return the others and all below."""
        left: dict[str, Stage] = {}
        for stage in stages:
            if self.has_to_wait(stage, left) or not self.run_or_fail(stage):
                left[stage.id] = stage
                continue
            self.rows.settle(stage)
            self.uses[stage.parent] -= 1
            if self.uses[stage.parent] == 0 and stage.parent is not None:
                self.let_go(stage.parent)
            if stage.work.stores_weights and not self.uses[stage.id]:
                self.let_go(stage.id)
        return [*left.values()]

    def has_to_wait(self, stage: Stage, left: Collection[str]) -> bool:
        """Return True if others compute the parent of a stage, or what tells if it is stopped."""
        looks = self.looks.get(stage.parent, ()) if self.has_limit(stage) else ()
        return stage.parent in left or any(look.id in left for look in looks)

    def wait(self, stages: list[Stage], waited: float) -> float:
        """Wait for those who compute all that is left; return the seconds waited so far."""
        first = stages[0]
        if not waited and self.ranks.rank == 0:
            name, holder = f"{first.kind} of {first.method}", self.holders[first.id]
            logger.warning("waiting for %s, which computes %s", holder, name)
        pause = min(WAIT_SECONDS, 0.1 + waited / 10)
        time.sleep(pause)
        return waited + pause

    def run_or_fail(self, stage: Stage) -> bool:
        """Return False if another sweep computes a stage; else see to it and return True.

        A stage runs unless it is stored already, an ancestor failed, or its branch is stopped.
        """
        if self.rows.ended_with(stage.parent, stage.id):
            return True
        holder, stored, passed = self.space.told(lambda: self.look_at(stage))
        if holder is not None:
            self.holders[stage.id] = holder
        elif passed is not None:
            self.rows.stopped[stage.id] = passed
        elif not stored:
            self.run_claimed(stage)
        return holder is None

    def look_at(self, stage: Stage) -> tuple[str | None, bool, tuple[str, float] | None]:
        """Return who else computes a stage, True if it is stored, and why it is not run.

        If it is to run it is claimed now.
        """
        manifests = self.space.manifests
        if stage.id in manifests.found and self.is_stored(stage):
            return None, True, None
        holder = self.claims.take(stage.id)
        if holder is not None:
            return holder, False, None
        # The one who held it may have published it.
        manifests.forget(stage.id)
        stored, passed = self.is_stored(stage), self.passed_limit(stage)
        if stored or passed is not None:
            self.claims.release()
        return None, stored, None if stored else passed

    def run_claimed(self, stage: Stage) -> None:
        """Run a stage; note an error that fails its cells and no others."""
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
            self.rows.failed[stage.id] = line
            logger.error("%s of %s failed: %s", stage.kind, stage.method, line)
        finally:
            self.claims.release()

    def is_stored(self, stage: Stage) -> bool:
        """Return True if a stage is in the store with all that the next ones need."""
        manifest = self.space.manifests.find(stage.id)
        if manifest is None or not manifest.get("dropped"):
            return manifest is not None
        # Another sweep with this keep policy has dropped what nothing here starts from any more.
        below = self.children.get(stage.id, [])
        return stage.id in self.job.drop and all(self.is_stored(child) for child in below)

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

    def has_limit(self, stage: Stage) -> bool:
        """Return True if a stage is not run once the perplexity of its parent is too high.

        Stages below the dense model and stages that only look at weights always run.
        """
        is_below_root = stage.parent == self.job.root.id
        limited = self.job.limits.stop_perplexity is not None
        return limited and stage.work.stores_weights and not is_below_root

    def passed_limit(self, stage: Stage) -> tuple[str, float] | None:
        """Return why a stage is not run: its parent's perplexity is above the limit. Else None."""
        limit = self.job.limits.stop_perplexity
        if limit is None or not self.has_limit(stage):
            return None
        for other in self.looks.get(stage.parent, ()):
            manifest = self.space.manifests.find(other.id)
            value = math.nan if manifest is None else manifest["metrics"]["perplexity"]
            if manifest is not None and not value <= limit:
                at = self.job.target_of(stage.parent).sparsity
                line = f"perplexity {value:.4g} at {at:g} is above --stop-perplexity {limit:g}"
                return line, value
        return None

    def let_go(self, stage_id: str) -> None:
        """Drop weights that the keep policy does not want, once no stage starts from them."""
        if self.ranks.rank == 0 and stage_id in self.job.drop:
            self.keeping.drop(stage_id)
