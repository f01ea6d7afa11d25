"""The Tune trial: one TorchTrainer after another until every cell of the trial has a row.

A worker group that dies is started again and finds what is done in the store. When it dies too
often at one place, the cell it was at becomes a failed row and the rest of the trial goes on.
"""

from __future__ import annotations

import logging
import os
import uuid
from dataclasses import dataclass, replace
from typing import Any

import ray.train
import ray.tune
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import PreemptionError
from ray.tune.integration.ray_train import TuneReportCallback

from orchestrator.cell import Cell
from orchestrator.failure import is_no_space, is_out_of_memory, no_space, out_of_memory
from orchestrator.job import Job
from orchestrator.placement import PlaceRelease, StartLimit
from orchestrator.results import row_key
from orchestrator.rows import build_row
from orchestrator.store import Store
from orchestrator.worker import train_worker

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Times that a worker group is started again without having got further."""
HEALTH_CHECK_SECONDS = "0.3"
"""Train's controller polls its workers this often; its default costs seconds for every cell."""
HALTED = "halted"
"""What a trial reports when the whole sweep cannot go on."""
TIMEOUTS = (
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S",
)
"""Ray's own limits for a place in the cluster, for a report of all ranks, for a sign of life."""

STUCK = ("WorkerHealthCheckTimeoutError", "StuckError", "CollectiveTimeout", "Timed out waiting")
NODE_LOST = "its node has died"
"""How Ray says that a worker went with its node."""
NOT_STARTED = "WorkerGroupStartupFailedError"
"""How Ray says that a worker was lost, or killed for not answering, before it had its function."""
LOST = (
    "WorkerHealthCheckFailedError",
    "PreemptionError",
    "ActorDiedError",
    "ActorUnavailableError",
    "Connection closed by peer",
    "Connection reset by peer",
    "remote process exited",
)
"""How Ray, gloo and nccl say that a process was waited for in vain, or is no longer there."""


@dataclass(frozen=True)
class Failure:
    """Why a worker group ended."""

    line: str
    """For the row."""
    interrupted: bool = False
    """A lost process or a wait was at fault, not the work: a later run tries again by itself."""
    retry: bool = True
    """Whether starting again may help."""
    counts: bool = True
    """Whether it is one of the few times that starting again is tried."""
    whole_trial: bool = False
    """All cells of the trial would meet it."""
    halts: bool = False
    """All trials would."""


def run_trial(config: dict[str, Any], jobs: dict[str, dict[str, Any]]) -> None:
    """Runs the job that the trial's config names.

    Args:
        config: Tune's config; `trial.id` names the job, the rest is for Tune's table.
        jobs: all jobs of the sweep by id.
    """
    whole = Job.from_dict(jobs[config["trial"]["id"]])
    store = Store(whole.store_root)
    job = without_failed(whole, store)
    os.environ.update(dict.fromkeys(TIMEOUTS, f"{whole.timeout_seconds:g}"))
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_SECONDS)
    failures, reached = 0, None
    while job is not None:
        try:
            make_trainer(job, config).fit()
            return
        except Exception as error:
            if not isinstance(error, ray.train.TrainingFailedError) and not is_no_space(error):
                raise
            failure = describe(job, error)
        logger.warning("a worker group ended early: %s", failure.line)
        if failure.halts:
            ray.tune.report({HALTED: failure.line})
            return
        here = progress(job, store)
        failures = (failures if here == reached else 0) + failure.counts
        reached = here
        if failure.retry and failures <= MAX_FAILURES:
            job = without_failed(job, store)
            continue
        failures, reached = 0, None
        job = give_up_on_next(job, store, failure)
        while job is not None and failure.whole_trial:
            job = give_up_on_next(job, store, failure)


def lost_node(error: BaseException) -> bool:
    """Whether a node went away, as spot instances do, announced or not: no failure of the work."""
    if isinstance(error, PreemptionError):
        return True
    causes = (getattr(error, "worker_failures", None) or {}).values()
    return any(NODE_LOST in str(cause) or getattr(cause, "preempted", False) for cause in causes)


def make_trainer(job: Job, config: dict[str, Any]) -> TorchTrainer:
    """A worker group for a job, placed on one node where it fits."""
    # Ray takes others than its public kind for "custom workarounds".
    limit = StartLimit(2 * job.timeout_seconds)  # Half of it may go by waiting for a place.
    callbacks: list[Any] = [TuneReportCallback(), PlaceRelease(), limit]
    return TorchTrainer(
        train_worker,
        train_loop_config=job.to_dict(),
        torch_config=TorchConfig(timeout_s=max(1, round(job.timeout_seconds))),
        scaling_config=ScalingConfig(
            num_workers=job.num_workers,
            use_gpu=bool(config["gpus_per_worker"]),
            resources_per_worker=resources_of(job, config),
        ),
        run_config=RunConfig(
            # The store is the truth, so no run may take up another's state: a new name each.
            name=f"train-{job.id}-{uuid.uuid4().hex[:8]}",
            storage_path=config["storage_path"],
            # Starting again is decided here, where it is known how far the store has come.
            failure_config=FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
            callbacks=callbacks,
        ),
    )


def resources_of(job: Job, config: dict[str, Any]) -> dict[str, float]:
    """What one worker takes."""
    resources = {"CPU": float(job.threads)}
    if config["gpus_per_worker"]:
        resources["GPU"] = config["gpus_per_worker"]
    return resources


def describe(job: Job, error: BaseException) -> Failure:
    """Why a worker group ended, from the errors of its ranks.

    When one rank is lost the others fail too, waiting for it, so a lost rank is looked for first.
    """
    unplaced = getattr(error, "controller_failure", None)
    if type(unplaced).__name__ == "WorkerGroupStartupTimeoutError":
        line = (
            f"no room for {job.num_workers} workers of {job.threads} CPU cores"
            f"{' and a GPU' * (job.device == 'cuda')} within {job.timeout_seconds:g} s "
            "(--timeout-seconds): add nodes, or use fewer --num-workers or --cpus-per-worker"
        )
        return Failure(line, interrupted=True, retry=False, whole_trial=True)
    causes = [*(getattr(error, "worker_failures", None) or {}).values()] or [unplaced or error]
    full = next((cause for cause in causes if is_no_space(cause)), None)
    if full is not None:
        return Failure(no_space(job.store_root, full), halts=True)
    if lost_node(error):
        return Failure("a node was lost", interrupted=True, counts=False)
    if any(is_out_of_memory(cause) for cause in causes):
        return Failure(out_of_memory(job.memory_bytes), retry=False)
    if any(says(cause, STUCK) for cause in causes):
        line = (
            f"a worker was stuck for {job.timeout_seconds:g} s (--timeout-seconds); where it only "
            "was slow, allow more; run the same command again"
        )
        return Failure(line, interrupted=True)
    if any(says(cause, (NOT_STARTED,)) for cause in causes):
        line = (
            "a worker was lost or did not answer while its group started "
            f"(--timeout-seconds {job.timeout_seconds:g}); run the same command again"
        )
        return Failure(line, interrupted=True)
    if any(says(cause, LOST) for cause in causes):
        gib = job.memory_bytes / 2**30
        line = f"killed (possibly out of memory; estimated {gib:.1f} GiB a worker)"
        return Failure(line, interrupted=True)
    return Failure(f"{type(causes[0]).__name__}: {last_line(causes[0])}")


def says(error: BaseException, marks: tuple[str, ...]) -> bool:
    """Whether an error's type or text is one of some."""
    text = f"{type(error).__name__}: {error}"
    return any(mark in text for mark in marks)


def last_line(error: BaseException) -> str:
    """The line of an error's text that says most."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def progress(job: Job, store: Store) -> tuple[int, int]:
    """How far a job has come: stages stored, and steps of the round of training it is in."""
    stored = store.names("stages")
    missing = [stage for stage in job.stages if stage.id not in stored]
    steps = store.names(f"checkpoints/{missing[0].id}") if missing else set()
    return len(missing), max((int(name) for name in steps if name.isdigit()), default=0)


def rows_of(job: Job, store: Store) -> dict[str, dict[str, Any]]:
    """Rows of a job's cells by key; a store may hold thousands of others."""
    return store.rows({row_key(cell.id, each) for cell in job.cells for each in cell.evaluations})


def give_up_on_next(job: Job, store: Store, failure: Failure) -> Job | None:
    """Marks the cells at the first missing stage as failed, or not run, and leaves them out.

    Returns the job without them, or None where no cell is open, so that nothing is left to give up.
    """
    rows = rows_of(job, store)
    open_cells = [
        cell
        for cell in job.cells
        if any(row_key(cell.id, evaluation) not in rows for evaluation in cell.evaluations)
    ]
    if not open_cells:
        return None
    manifests = store.stages()
    order = {stage.id: i for i, stage in enumerate(job.stages) if stage.id not in manifests}

    def next_stage(cell: Cell) -> int:
        return min((order[s] for s in cell.all_stages() if s in order), default=-1)

    stuck = min(next_stage(cell) for cell in open_cells)
    affected = [cell for cell in open_cells if next_stage(cell) == stuck]
    shortest = min(len(cell.stages) for cell in affected)
    for cell in affected:
        status = "failed" if len(cell.stages) == shortest else "not_run"
        for evaluation in cell.evaluations:
            row = build_row(
                job, cell, evaluation, manifests.get, status, failure.line, failure.interrupted
            )
            store.put_row(row_key(cell.id, evaluation), row)
    logger.error("gave up on %d cells: %s", len(affected), failure.line)
    done = {cell.id for cell in job.cells} - {cell.id for cell in open_cells}
    return without(job, done | {cell.id for cell in affected})


def without_failed(job: Job, store: Store) -> Job | None:
    """The job without the cells that have failed in this sweep; None if none is left.

    Cells to be tried again have lost their rows when the sweep began, so a failed row is new.
    """
    rows = rows_of(job, store)

    def has_failed(cell: Cell) -> bool:
        found = [rows.get(row_key(cell.id, evaluation), {}) for evaluation in cell.evaluations]
        return all(
            row.get("status") in ("failed", "not_run") and not row["_interrupted"] for row in found
        )

    return without(job, {cell.id for cell in job.cells if has_failed(cell)})


def without(job: Job, cell_ids: set[str]) -> Job | None:
    """The job of the other cells, with the stages that these are made of; None if none is left."""
    cells = tuple(cell for cell in job.cells if cell.id not in cell_ids)
    wanted = {stage for cell in cells for stage in cell.all_stages()}
    stages = tuple(stage for stage in job.stages if stage.id in wanted)
    return replace(job, cells=cells, stages=stages) if cells else None
