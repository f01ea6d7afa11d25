"""Stages that run by themselves, each in a Ray task of its own, after the trials.

Zero-shot tasks are such stages: the harness wants a process without a process group.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import ray

from orchestrator.cluster.slots import cpus_per_worker, gpus_per_worker, has_node_for
from orchestrator.config import ResourceConfig
from orchestrator.plan.job import Job

logger = logging.getLogger(__name__)


def run_alone(jobs: Sequence[Job], resources: ResourceConfig) -> int:
    """Run jobs of one stage each, as resources allow; return how many failed.

    Says which are done and which failed. Ray has to be joined.
    """
    threads, gpus = cpus_per_worker(resources), gpus_per_worker(resources)
    remote = ray.remote(walk_alone).options(num_cpus=threads, num_gpus=gpus, max_retries=1)
    started = {remote.remote(job): job.stages[0] for job in jobs}
    waiting, failed = list(started), 0
    while waiting:
        found, waiting = ray.wait(waiting, timeout=resources.timeout_seconds)
        if not found:
            # A task may take hours; but where no node could run one, none ever ends.
            if has_node_for(threads, gpus):
                continue
            logger.error(no_node(len(waiting), threads, resources))
            return failed + len(waiting)
        (ready,) = found
        stage, done = started[ready], len(jobs) - len(waiting)
        print(f"[{done:>2}/{len(jobs)}] task {stage.text} of {stage.method}", flush=True)
        try:
            ray.get(ready)
        except Exception as error:
            failed += 1
            line = str(getattr(error, "cause", error)).strip().splitlines()[-1]
            logger.error("task %s of %s failed: %s", stage.text, stage.method, line)
    return failed


def no_node(count: int, threads: int, resources: ResourceConfig) -> str:
    """Return the line for tasks that no node of the cluster can run."""
    return (
        f"{count} tasks failed: no node with {threads} CPU cores"
        f"{' and a GPU' * resources.use_gpu} for {resources.timeout_seconds:g} s "
        "(--timeout-seconds); add nodes and run the same command again"
    )


def walk_alone(job: Job) -> None:
    """Run the one stage of a job in this process."""
    # Seconds of imports that only this process needs.
    import torch

    from core.parallel import Ranks
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
