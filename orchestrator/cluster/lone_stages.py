"""Stages that run by themselves, each in a Ray task of its own, after the trials.

Zero-shot tasks are such stages: the harness wants a process without a process group.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from orchestrator.cluster.reach import reach_of_cluster
from orchestrator.cluster.room import NoRoomError, wait_for_room
from orchestrator.cluster.sent_jobs import received, sent
from orchestrator.cluster.slots import shape_of
from orchestrator.config import ResourceConfig
from orchestrator.failure import last_line
from orchestrator.plan.job import Job

logger = logging.getLogger(__name__)


def run_alone(jobs: Sequence[Job], resources: ResourceConfig) -> int:
    """Run jobs of one stage each, as resources allow; return how many failed.

    Says which are done and which failed. Ray has to be joined. A task waits as long as others hold
    the cluster; where no node can ever run one, the rest fails.
    """
    reach = reach_of_cluster()
    shape, known = shape_of(resources, reach), not reach.is_empty()
    remote = ray.remote(walk_alone).options(num_cpus=shape.cpus, num_gpus=shape.gpus, max_retries=1)
    started = {remote.remote(sent(with_threads(job, shape.cpus))): job.stages[0] for job in jobs}
    waiting, failed = list(started), 0

    def one_ended(seconds: float) -> bool:
        return bool(ray.wait(waiting, timeout=seconds)[0])

    def why_never() -> str | None:
        reach = reach_of_cluster()
        return reach.why_never(shape, 1) if known and not reach.may_hold_more() else None

    def tell(minutes: float) -> None:
        print(f"{len(waiting)} tasks run or wait for room, for {minutes:.0f} min", flush=True)

    while waiting:
        try:
            wait_for_room(one_ended, why_never, tell)
        except NoRoomError as error:
            line = "%d tasks failed: %s; add nodes and run the same command again"
            logger.error(line, len(waiting), error)
            return failed + len(waiting)
        (ready,), waiting = ray.wait(waiting)
        stage, done = started[ready], len(jobs) - len(waiting)
        print(f"[{done:>2}/{len(jobs)}] task {stage.text} of {stage.method}", flush=True)
        try:
            ray.get(ready)
        except Exception as error:
            failed += 1
            line = last_line(getattr(error, "cause", None) or error)
            logger.error("task %s of %s failed: %s", stage.text, stage.method, line)
    return failed


def with_threads(job: Job, threads: int) -> Job:
    """Return a job whose worker has so many cores."""
    return replace(job, workers=replace(job.workers, threads=threads))


def walk_alone(packed: dict[str, Any]) -> None:
    """Run the one stage of a job in this process."""
    job = received(packed)
    # Seconds of imports that only this process needs.
    import torch

    from core.ranks import Ranks
    from orchestrator.store.store import Store
    from orchestrator.trial.clock import restart_peak
    from orchestrator.trial.notice import Notice
    from orchestrator.trial.runners import RUNNERS
    from orchestrator.trial.workspace import Workspace

    torch.set_num_threads(job.workers.threads)
    ranks = Ranks.current(torch.device(job.workers.device))
    restart_peak(ranks.device)
    (stage,) = job.stages
    RUNNERS[type(stage.work)](Workspace(job, Store(job.store_root), ranks, Notice()), stage)
