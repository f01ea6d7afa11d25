"""One Tune run over all trials."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import ray
from ray.tune import (
    Callback,
    FailureConfig,
    RunConfig,
    Stopper,
    TuneConfig,
    Tuner,
    grid_search,
    with_parameters,
    with_resources,
)

from orchestrator.cluster.driver import HALTED, run_trial
from orchestrator.cluster.slots import Slots
from orchestrator.plan.job import Job

DRIVER_RESOURCE = {"node:__internal_head__": 0.001}
"""Trial drivers do no work themselves. This small part of a resource that every head node has keeps
them there and takes no CPU from workers, on any cluster."""
TRIAL_RETRIES = 3


class Halt(Stopper):
    """Ends all trials when one of them reports that the sweep cannot go on."""

    def __init__(self) -> None:
        self.halted = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Look at a report; never stop a single trial."""
        self.halted |= HALTED in result
        return False

    def stop_all(self) -> bool:
        """Return True if all trials shall end."""
        return self.halted


def run_trials(
    trials: Sequence[tuple[dict[str, Any], Job]],
    slots: Slots,
    name: str,
    storage_path: str,
    callbacks: list[Callback],
) -> list[str]:
    """Run all trials through Tune; return the errors of trials that Tune gave up on.

    Args:
        trials: for each, the view that Tune's table shows, with its `id`, and the trial's job.
        slots: number of trials at a time, and their workers.
        name: beginning of the name of the Tune run.
        storage_path: folder or URI for Tune's own files.
        callbacks: called for trials and finished cells.
    """
    # By reference, so that no trial reads the jobs of the others.
    jobs = {view["id"]: ray.put(job.packed()) for view, job in trials}
    tuner = Tuner(
        with_resources(with_parameters(run_trial, jobs=jobs), DRIVER_RESOURCE),
        param_space={
            "trial": grid_search([view for view, _ in trials]),
            "gpus_per_worker": slots.shape.gpus,
            "grows_unseen": slots.grows_unseen,
            "may_grow": slots.may_grow,
            "storage_path": storage_path,
        },
        tune_config=TuneConfig(max_concurrent_trials=slots.count, reuse_actors=True),
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
