"""Zero-shot tasks of finished cells: Ray tasks of their own, after the trials.

They start from the weights that a cell's last stage stored (the dense model from its source) and
store their metrics as stages of kind `tasks`; rows get them as further columns.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from orchestrator.config import ResourceConfig
from orchestrator.plan.tasks import TaskRun
from orchestrator.preparation import missing_runs
from orchestrator.trial.tasks import work

if TYPE_CHECKING:
    from orchestrator.preparation import Sweep

logger = logging.getLogger(__name__)


def run_tasks(sweep: Sweep) -> int:
    """Starts Ray and runs what is missing of finished cells; returns how many runs failed."""
    from orchestrator.cluster import connection as cluster

    stored = sweep.store.stages.manifests()
    with_weights = {name for name, manifest in stored.items() if not manifest.get("dropped")}
    # A cell without its weights has failed, and its row says so.
    runs = [run for run in missing_runs(sweep) if run.dense or run.stage.parent in with_weights]
    if not runs:
        return 0
    cluster.connect()
    try:
        return run_all(sweep, runs)
    finally:
        cluster.ray.shutdown()


def run_all(sweep: Sweep, runs: list[TaskRun]) -> int:
    """Runs tasks as resources allow; says which are done and which failed."""
    import ray

    from orchestrator.cluster import slots
    from orchestrator.results import versions

    resources = sweep.config.resources
    threads = slots.cpus_per_worker(resources)
    remote = ray.remote(work).options(
        num_cpus=threads, num_gpus=slots.gpus_per_worker(resources), max_retries=1
    )
    models = {model.inputs.name: model for model in sweep.models}
    started, failed = {}, 0
    for run in runs:
        model = models[run.stage.model]
        job = {
            "store_root": sweep.store.files.uri(),
            "source": model.source,
            "max_length": model.facts.max_seq_len,
            "dtype": model.inputs.dtype,
            "device": sweep.device,
            "threads": threads,
            "batch_tokens": sweep.micro_batch_tokens,
            "environment": versions.environment(),
        }
        started[remote.remote(run, job)] = run.stage
    waiting = list(started)
    while waiting:
        found, waiting = ray.wait(waiting, timeout=resources.timeout_seconds)
        if not found:
            # A task may take hours; but where no node could run one, none ever ends.
            if slots.has_node_for(threads, slots.gpus_per_worker(resources)):
                continue
            logger.error(no_node(len(waiting), threads, resources))
            return failed + len(waiting)
        (ready,) = found
        stage, done = started[ready], len(runs) - len(waiting)
        print(f"[{done:>2}/{len(runs)}] task {stage.text} of {stage.method}", flush=True)
        try:
            ray.get(ready)
        except Exception as error:
            failed += 1
            line = str(getattr(error, "cause", error)).strip().splitlines()[-1]
            logger.error("task %s of %s failed: %s", stage.text, stage.method, line)
    return failed


def no_node(count: int, threads: int, resources: ResourceConfig) -> str:
    """What is said of tasks that no node of the cluster can run."""
    return (
        f"{count} tasks failed: no node with {threads} CPU cores"
        f"{' and a GPU' * resources.use_gpu} for {resources.timeout_seconds:g} s "
        "(--timeout-seconds); add nodes and run the same command again"
    )
