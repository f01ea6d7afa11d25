"""Ray itself: connect or start, what fits, and a Tune run over the trials."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import ray
import ray.tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner

from core.config import require
from orchestrator.config import ResourceConfig
from orchestrator.driver import run_trial

DRIVER_RESOURCE = {"node:__internal_head__": 0.001}
"""Trial drivers do no work themselves: a sliver of the head node's built-in resource keeps them
there and takes no CPU from workers, on any cluster, whoever started it."""
HEALTH_CHECK_SECONDS = "0.3"
TRIAL_RETRIES = 3
FIRST_WORKER_SECONDS = 900
"""Installing torch on a new machine takes minutes."""


def cpus_per_worker(config: ResourceConfig) -> int:
    """CPU cores, and torch threads, of a worker."""
    return config.cpus_per_worker or max(1, (os.cpu_count() or 1) // config.num_workers)


def gpus_per_worker(config: ResourceConfig) -> float:
    """GPUs of a worker."""
    return (config.gpus_per_worker or 1.0) if config.use_gpu else 0.0


def connect() -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts one on this machine."""
    # Train's controller polls its workers this often; the default costs seconds for every cell.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", HEALTH_CHECK_SECONDS)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        # The dashboard stays on: without it a stopped trial does not give its resources back.
        options |= {"include_dashboard": True}
    ray.init(**options)
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def num_slots(config: ResourceConfig, available: Mapping[str, float]) -> int:
    """Trials that fit at a time.

    Raises:
        ValueError: not even one fits; names the flag.
    """
    cpus = cpus_per_worker(config) * config.num_workers
    slots = int(available.get("CPU", 0) // cpus)
    has = f"{available.get('CPU', 0):g} CPU cores"
    require(
        slots > 0, "num-workers", config.num_workers, f"needs {cpus} CPU cores; there are {has}"
    )
    if config.use_gpu:
        gpus = gpus_per_worker(config) * config.num_workers
        fits = int(available.get("GPU", 0) // gpus + 1e-9)
        have = f"{available.get('GPU', 0):g}"
        require(fits > 0, "use-gpu", config.num_workers, f"needs {gpus:g} GPUs; there are {have}")
        slots = min(slots, fits)
    return min(slots, config.max_concurrent_trials or slots)


def slots_of_cluster(config: ResourceConfig) -> int:
    """Trials at a time on the cluster joined, as soon as it has a worker or may get one.

    A cluster that was just started may not have its first worker yet, and says of none what it
    will have.

    Raises:
        ValueError: not even one trial fits; names the flag.
    """
    end = time.monotonic() + FIRST_WORKER_SECONDS
    if not reachable_resources().get("CPU"):
        print("waiting for the cluster's first worker", flush=True)
    while not reachable_resources().get("CPU") and time.monotonic() < end:
        time.sleep(2)
    return num_slots(config, reachable_resources())


def planned_slots(config: ResourceConfig) -> int:
    """Trials at a time that a dry run plans for: on this machine where one fits, else as asked."""
    try:
        return num_slots(config, local_resources())
    except ValueError:
        return config.max_concurrent_trials or 1


def reachable_resources() -> Mapping[str, float]:
    """What the autoscaler may bring the cluster to, or what is up where nothing scales."""
    from ray._private.state import state

    return state.get_max_resources_from_cluster_config() or ray.cluster_resources()


def local_resources() -> dict[str, float]:
    """What this machine has, without asking Ray."""
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def run_trials(
    trials: list[dict[str, Any]],
    jobs: dict[str, dict[str, Any]],
    config: ResourceConfig,
    slots: int,
    name: str,
    storage_path: str,
    callbacks: list[Callback],
) -> list[str]:
    """Runs all trials through Tune; returns the errors of trials that Tune gave up on.

    Args:
        trials: for each, what Tune's table shows of it, `id` among that.
        jobs: the job of each trial by id.
        config: resources of a trial.
        slots: trials at a time.
        name: name of the Tune run.
        storage_path: where Tune writes its own files.
        callbacks: told of trials and finished cells.
    """
    trainable = ray.tune.with_resources(
        ray.tune.with_parameters(run_trial, jobs=jobs), DRIVER_RESOURCE
    )
    tuner = Tuner(
        trainable,
        param_space={
            "trial": ray.tune.grid_search(trials),
            "gpus_per_worker": gpus_per_worker(config),
            "storage_path": storage_path,
        },
        tune_config=TuneConfig(max_concurrent_trials=slots, reuse_actors=True),
        run_config=RunConfig(
            name=name,
            storage_path=storage_path,
            verbose=0,
            callbacks=callbacks,
            failure_config=FailureConfig(max_failures=TRIAL_RETRIES),
        ),
    )
    return [str(result.error) for result in tuner.fit() if result.error is not None]
