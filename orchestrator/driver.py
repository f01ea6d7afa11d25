"""The Tune trial: one TorchTrainer after another until every cell of the trial has a row.

A worker that dies is started again by Ray Train and finds what is done in the store. When it dies
too often, the cell it was at becomes a failed row and the rest of the trial goes on.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import replace
from typing import Any

import ray.exceptions
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import PreemptionError
from ray.tune.integration.ray_train import TuneReportCallback

from orchestrator.cell import Cell
from orchestrator.job import Job
from orchestrator.results import row_key
from orchestrator.rows import build_row
from orchestrator.store import Store
from orchestrator.worker import train_worker

logger = logging.getLogger(__name__)

MAX_FAILURES = 3
NODE_LOST = "its node has died"
"""How Ray says that a worker went with its node."""
COLLECTIVE_TIMEOUT_SECONDS = 1800


def run_trial(config: dict[str, Any], jobs: dict[str, dict[str, Any]]) -> None:
    """Runs the job that the trial's config names.

    Args:
        config: Tune's config; `trial.id` names the job, the rest is for Tune's table.
        jobs: all jobs of the sweep by id.
    """
    job: Job | None = Job.from_dict(jobs[config["trial"]["id"]])
    store = Store(job.store_root)
    while job is not None:
        try:
            make_trainer(job, config).fit()
            return
        except ray.train.TrainingFailedError as error:
            if lost_node(error):
                logger.warning("a node was lost; going on from what is stored")
                continue
            job = give_up_on_next(job, store, *describe(job, error))


def lost_node(error: BaseException) -> bool:
    """Whether a node went away, as spot instances do, announced or not: no failure of the work."""
    if isinstance(error, PreemptionError):
        return True
    causes = (getattr(error, "worker_failures", None) or {}).values()
    return any(NODE_LOST in str(cause) or getattr(cause, "preempted", False) for cause in causes)


def make_trainer(job: Job, config: dict[str, Any]) -> TorchTrainer:
    """A worker group for a job, placed on one node where it fits."""
    resources = {"CPU": float(job.threads)}
    if config["gpus_per_worker"]:
        resources["GPU"] = config["gpus_per_worker"]
    return TorchTrainer(
        train_worker,
        train_loop_config=job.to_dict(),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_SECONDS),
        scaling_config=ScalingConfig(
            num_workers=job.num_workers,
            use_gpu=bool(config["gpus_per_worker"]),
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            # The store is the truth, so no run may take up another's state: a new name each.
            name=f"train-{job.id}-{uuid.uuid4().hex[:8]}",
            storage_path=config["storage_path"],
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[TuneReportCallback()],
        ),
    )


def describe(job: Job, error: BaseException) -> tuple[str, bool]:
    """One line for the row, and whether a lost process rather than the code was at fault."""
    failures = getattr(error, "worker_failures", {}) or {}
    cause = next(iter(failures.values()), error)
    text = str(cause).strip().splitlines()
    if isinstance(cause, ray.exceptions.RayTaskError):
        return f"{type(cause.cause).__name__}: {text[-1]}", False
    if "Died" in type(cause).__name__ or "ctor" in type(cause).__name__ or not text:
        gib = job.memory_bytes / 2**30
        return f"killed (possibly out of memory; estimated {gib:.1f} GiB)", True
    return f"{type(cause).__name__}: {text[-1]}", False


def give_up_on_next(job: Job, store: Store, error: str, interrupted: bool) -> Job | None:
    """Marks the cells at the first missing stage as failed, or not run, and leaves them out.

    Returns the job without them, or None where no cell is open, so that nothing is left to give up.
    """
    rows = store.rows()
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
            row = build_row(job, cell, evaluation, manifests.get, status, error, interrupted)
            store.put_row(row_key(cell.id, evaluation), row)
    logger.error("gave up on %d cells: %s", len(affected), error)
    done = {cell.id for cell in job.cells} - {cell.id for cell in open_cells}
    return without(job, done | {cell.id for cell in affected})


def without(job: Job, cell_ids: set[str]) -> Job | None:
    """The job of the other cells, with the stages that these are made of; None if none is left."""
    cells = tuple(cell for cell in job.cells if cell.id not in cell_ids)
    wanted = {stage for cell in cells for stage in cell.all_stages()}
    stages = tuple(stage for stage in job.stages if stage.id in wanted)
    return replace(job, cells=cells, stages=stages) if cells else None
