"""The driver of a trial: one TorchTrainer after another until every cell has a row.

A worker group that dies is started again, and finds finished stages in the store. If it dies too
often at one place, the cell there becomes a failed row and the rest of the trial goes on.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
import ray.exceptions
import ray.train
import ray.tune
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from orchestrator.cluster.diagnosis import Failure, describe
from orchestrator.cluster.failed_cells import give_up_on_next, progress, without_failed
from orchestrator.cluster.hang import detector_settings
from orchestrator.cluster.placement import PlaceRelease, StartLimit
from orchestrator.cluster.restarts import Restarts
from orchestrator.cluster.room import WAITING
from orchestrator.cluster.sent_jobs import sent
from orchestrator.cluster.train_internals import LeanTrainer
from orchestrator.cluster.worker import train_worker
from orchestrator.failure import is_no_space
from orchestrator.plan.job import Job
from orchestrator.store.claims import take_over
from orchestrator.store.store import Store

logger = logging.getLogger(__name__)

ENDS = (ray.train.TrainingFailedError, ray.exceptions.RayActorError)
"""Errors of a group's end; the process of Ray Train that controls it may be lost too."""

HEALTH_CHECK_SECONDS = "0.3"
"""Train's controller polls its workers this often; its default costs seconds for every cell."""
HALTED = "halted"
"""Key of a trial's report that the whole sweep cannot go on."""
TIMEOUTS = ("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S")
"""Ray's limits of waiting: for a report of all ranks, and for a sign of life."""
USERS = frozenset(os.environ)
"""Variables that this process was started with. Their values win over ours."""


def run_trial(config: dict[str, Any], jobs: Mapping[str, ray.ObjectRef]) -> None:
    """Run the job that the trial's config names.

    Args:
        config: Tune's config; `trial.id` names the job, the rest is for Tune's table.
        jobs: references to all packed jobs of the sweep by id; only the trial's own is read.
    """
    whole = Job.unpacked(ray.get(jobs[config["trial"]["id"]]))
    whole = replace(whole, group=uuid.uuid4().hex)
    store = Store(whole.store_root)
    job = without_failed(whole, store)
    os.environ.update(without_users(settings_of(whole)))
    restarts = Restarts(whole.id)
    while job is not None:
        try:
            make_trainer(job, config).fit()
            return
        except Exception as error:
            if not isinstance(error, ENDS) and not is_no_space(error):
                raise
            failure = describe(job, error)
        logger.warning("a worker group ended early: %s", failure.line)
        if failure.halts:
            ray.tune.report({HALTED: failure.line})
            return
        job = go_on(job, store, failure, restarts)


def go_on(job: Job, store: Store, failure: Failure, restarts: Restarts) -> Job | None:
    """Return the job to start again after a failure and a pause; None if no cell is left.

    A cell that has failed too often is given up, or all of them where all would fail alike.
    """
    patience, begun = failure.patience, take_over(store.files, job.group)
    if patience is not None:
        times = restarts.note(patience, progress(job, store, begun))
        if times <= patience.restarts:
            pause = restarts.pause(patience)
            if pause:
                ray.tune.report({WAITING: f"{failure.line}; starting again in {pause:.0f} s"})
            time.sleep(pause)
            return without_failed(job, store)
        failure = replace(failure, line=failure.line + failure.often.format(times=times))
    restarts.forget()
    left = give_up_on_next(job, store, failure, begun)
    while left is not None and failure.whole_trial:
        left = give_up_on_next(left, store, failure)
    return left


def settings_of(job: Job) -> dict[str, str]:
    """Return the environment in which Ray runs the groups of a job."""
    return {
        **dict.fromkeys(TIMEOUTS, f"{job.limits.timeout_seconds:g}"),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": HEALTH_CHECK_SECONDS,
        **detector_settings(job, os.getpid()),
    }


def without_users(settings: dict[str, str]) -> dict[str, str]:
    """Return the variables that the user has not set."""
    return {name: value for name, value in settings.items() if name not in USERS}


def make_trainer(job: Job, config: dict[str, Any]) -> TorchTrainer:
    """Return a worker group for a job, placed on one node where it fits."""
    # Ray takes others than its public kind for "custom workarounds".
    reports = TuneReportCallback()
    limit = StartLimit(job.limits.timeout_seconds, reports, config["grows_unseen"])
    callbacks: list[Any] = [reports, PlaceRelease(), limit]
    trainer = LeanTrainer(
        train_worker,
        train_loop_config=sent(job),
        torch_config=TorchConfig(timeout_s=max(1, round(job.limits.timeout_seconds))),
        scaling_config=ScalingConfig(
            num_workers=job.workers.num_workers,
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
    trainer.may_grow = config["may_grow"]
    return trainer


def resources_of(job: Job, config: dict[str, Any]) -> dict[str, float]:
    """Return the resources of one worker."""
    resources = {"CPU": float(job.workers.threads)}
    if config["gpus_per_worker"]:
        resources["GPU"] = config["gpus_per_worker"]
    return resources
