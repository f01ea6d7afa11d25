"""One Tune run over all trials."""

from __future__ import annotations

import uuid
from typing import Any

import ray
from ray.tune import Callback, FailureConfig, RunConfig, Stopper, TuneConfig, Tuner

from orchestrator.cluster.driver import HALTED, run_trial
from orchestrator.cluster.slots import gpus_per_worker
from orchestrator.config import ResourceConfig

DRIVER_RESOURCE = {"node:__internal_head__": 0.001}
"""Trial drivers do no work themselves: a sliver of the head node's built-in resource keeps them
there and takes no CPU from workers, on any cluster, whoever started it."""
TRIAL_RETRIES = 3


class Halt(Stopper):
    """Ends all trials once one says that the sweep cannot go on."""

    def __init__(self) -> None:
        self.halted = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Looks at a report; stops no single trial."""
        self.halted |= HALTED in result
        return False

    def stop_all(self) -> bool:
        """Whether to end."""
        return self.halted


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
        name: how the name of the Tune run begins.
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
            # Two sweeps on one store at a time must not write over each other's files.
            name=f"{name}-{uuid.uuid4().hex[:8]}",
            storage_path=storage_path,
            verbose=0,
            callbacks=callbacks,
            stop=Halt(),
            failure_config=FailureConfig(max_failures=TRIAL_RETRIES),
        ),
    )
    results = [result for result in tuner.fit()]
    reports = [result.metrics or {} for result in results]
    halted = [str(metrics[HALTED]) for metrics in reports if HALTED in metrics]
    return halted[:1] + [str(result.error) for result in results if result.error is not None]
