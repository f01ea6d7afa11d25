"""Slots: the number of worker groups that fit into a cluster at a time, and their workers."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from core.checks import BadInputError, require
from orchestrator.cluster.reach import UNITS, Reach, WorkerShape, reach_of_cluster
from orchestrator.config import ResourceConfig
from orchestrator.estimate.devices import cpus_per_worker, gpus_per_worker, this_node
from orchestrator.plan.job import Job

FIRST_WORKER_SECONDS = 900
"""Installing torch on a new machine takes minutes."""


@dataclass(frozen=True)
class Slots:
    """The slots of a cluster."""

    count: int
    shape: WorkerShape
    num_workers: int
    """Workers of a slot."""
    grows_unseen: bool = False
    """True if the cluster is asked for slots of which it says nothing."""
    may_grow: bool = True
    """False if no autoscaler can add machines."""

    def settle(self, job: Job, num_trials: int) -> Job:
        """Return a job that knows the cores of its workers, and how many of them run at a time."""
        at_once = min(self.count, num_trials) * self.num_workers
        workers = replace(job.workers, threads=self.shape.cpus, at_once=at_once)
        return replace(job, workers=workers)


def slots_of_cluster(config: ResourceConfig) -> Slots:
    """Return the slots of the cluster that this process has joined.

    The size that the autoscaler may reach counts, not the machines that are up now. If no worker is
    up yet but the autoscaler always keeps some, wait for the first. If nothing says how far the
    cluster may grow, count `--max-concurrent-trials` slots, or 1 if it is not set.

    Raises:
        BadInputError: not even one trial fits; names the flag.
    """
    reach = reach_of_cluster()
    if not reach.has_cores() and any(each.least for each in reach.types):
        print("waiting for the cluster's first worker", flush=True)
        end = time.monotonic() + FIRST_WORKER_SECONDS
        while not reach.has_cores() and time.monotonic() < end:
            time.sleep(2)
            reach = reach_of_cluster()
    shape, count = shape_of(config, reach), config.num_workers
    if reach.num_workers(shape) < count and (reach.may_hold_more() or reach.is_empty()):
        slots = config.max_concurrent_trials or 1
        asked = f"no workers yet; asking for {slots} trials at a time (--max-concurrent-trials)"
        print(asked, flush=True)
        return Slots(slots, shape, count, grows_unseen=True)
    may_grow = bool(reach.types) or reach.may_hold_more()
    return Slots(num_slots(config, reach), shape, count, may_grow=may_grow)


def require_fits(config: ResourceConfig) -> None:
    """Refuse trials of which not even one fits on this machine; needs no Ray.

    Raises:
        BadInputError: names the flag.
    """
    num_slots(config, this_machine(config))


def planned_slots(config: ResourceConfig) -> int:
    """Return the slots that a dry run plans for.

    They are those of this machine. If not even one trial fits here, they are
    `--max-concurrent-trials`, or 1 if it is not set.

    Raises:
        BadInputError: no machine has what is asked for; names the flag.
    """
    reach = this_machine(config)
    shape_of(config, reach)
    try:
        return num_slots(config, reach)
    except BadInputError:
        return config.max_concurrent_trials or 1


def this_machine(config: ResourceConfig) -> Reach:
    """Return the reach of a cluster of this machine alone."""
    return Reach(workers=(), head=this_node(config.use_gpu))


def num_slots(config: ResourceConfig, reach: Reach) -> int:
    """Return how many trials fit into a cluster at a time, at least 1.

    The workers of a trial may lie on several nodes.

    Raises:
        BadInputError: not even one fits; names the flag.
    """
    shape = shape_of(config, reach)
    why = reach.why_never(shape, config.num_workers)
    if why is not None:
        raise BadInputError(f"{guilty_flag(config, shape, reach)}: {why}")
    slots = reach.num_workers(shape) // config.num_workers
    return min(slots, config.max_concurrent_trials or slots)


def shape_of(config: ResourceConfig, reach: Reach) -> WorkerShape:
    """Return the resources of a worker of a cluster.

    Raises:
        BadInputError: Ray has no such part of a GPU; names the flag.
    """
    gpus = gpus_per_worker(config)
    whole = gpus <= 1 or gpus == int(gpus)
    require(whole, "gpus-per-worker", gpus, "above 1, use whole GPUs")
    exists = not gpus or round(UNITS * gpus) >= 1
    require(exists, "gpus-per-worker", gpus, f"Ray's smallest part of a GPU is {1 / UNITS:g}")
    return WorkerShape(cpus_per_worker(config, reach.usual_node(config.use_gpu)), gpus)


def guilty_flag(config: ResourceConfig, shape: WorkerShape, reach: Reach) -> str:
    """Return the flag, as it was given, that asks for more than a cluster has."""
    if not reach.num_workers(shape):
        enough_cores = reach.most_cores() >= shape.cpus
        if config.cpus_per_worker is not None and not enough_cores:
            return f"--cpus-per-worker {config.cpus_per_worker}"
        if config.gpus_per_worker is not None and enough_cores:
            return f"--gpus-per-worker {config.gpus_per_worker:g}"
        if config.use_gpu and enough_cores:
            return "--use-gpu"
    return f"--num-workers {config.num_workers}"
