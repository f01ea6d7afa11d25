"""Zero-shot tasks of finished cells: Ray tasks of their own, after the trials.

They start from the weights that a cell's last stage stored (the dense model from its source) and
store their metrics as stages of kind `tasks`; rows get them as further columns.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from core.config import EvalConfig
from core.zero_shot import TASKS_VERSION, run_task, task_identity, task_label
from orchestrator.cell import Stage, stage_identity
from orchestrator.config import ResourceConfig
from orchestrator.plan import Plan
from orchestrator.record import TASKS_KIND
from orchestrator.store import Store

if TYPE_CHECKING:
    from orchestrator.sweep import Sweep

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskRun:
    """One task on one model: what a Ray task is told."""

    stage: Stage
    """Of kind `tasks`; its parent has the weights."""
    task: str
    """As the user named it."""
    dense: bool
    """Whether the weights are the source's own."""


def task_runs(plan: Plan, tasks: tuple[str, ...], limit: int | None) -> list[TaskRun]:
    """Every task on the last stage of every cell, once a stage."""
    runs: dict[str, TaskRun] = {}
    for cell in plan.cells.values():
        last = plan.stages[cell.stages[-1]]
        for task in tasks:
            fields: dict[str, Any] = {
                "version": TASKS_VERSION,
                "task": task_identity(task),
                "limit": limit,
                "dtype": plan.models[cell.model].dtype,
            }
            run_id = stage_identity(TASKS_KIND, last.id, fields)
            stage = Stage(
                run_id, TASKS_KIND, cell.model, cell.method, last.id, fields, task_label(task)
            )
            runs.setdefault(run_id, TaskRun(stage, task, last.kind == "dense"))
    return list(runs.values())


def missing_runs(sweep: Sweep) -> list[TaskRun]:
    """Task runs of the grid that the store does not hold."""
    wanted = task_runs(sweep.plan, sweep.config.eval.tasks, sweep.config.eval.task_limit)
    return [run for run in wanted if run.stage.id not in sweep.manifests]


def wanted_weights(plan: Plan, config: EvalConfig, manifests: Mapping[str, Any]) -> set[str]:
    """Stored stages that a missing task run starts from."""
    runs = task_runs(plan, config.tasks, config.task_limit)
    missing = {run.stage.parent for run in runs if run.stage.id not in manifests}
    return {stage for stage in missing if stage is not None and stage in manifests}


def run_tasks(sweep: Sweep) -> int:
    """Starts Ray and runs what is missing of finished cells; returns how many runs failed."""
    from orchestrator import cluster

    stored = sweep.store.stages()
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

    from orchestrator import cluster, versions

    resources = sweep.config.resources
    threads = cluster.cpus_per_worker(resources)
    remote = ray.remote(work).options(
        num_cpus=threads, num_gpus=cluster.gpus_per_worker(resources), max_retries=1
    )
    models = {model.inputs.name: model for model in sweep.models}
    started, failed = {}, 0
    for run in runs:
        model = models[run.stage.model]
        job = {
            "store_root": sweep.store.uri(),
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
            if cluster.has_node_for(threads, cluster.gpus_per_worker(resources)):
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


def work(run: TaskRun, job: dict[str, Any]) -> None:
    """Evaluates one task in a process of its own and stores the metrics."""
    import torch

    from core.models import load_model, load_tokenizer
    from core.parallel import Ranks, shard_
    from core.precision import DTYPES
    from orchestrator.clock import restart_peak, timed
    from orchestrator.versions import machine

    torch.set_num_threads(job["threads"])
    store, stage = Store(job["store_root"]), run.stage
    ranks = Ranks.current(torch.device(job["device"]))
    restart_peak(ranks.device)
    tokenizer = load_tokenizer(job["source"])
    if run.dense:
        model = load_model(job["source"], DTYPES[job["dtype"]])
    else:
        assert stage.parent is not None
        stored = store.manifest("stages", stage.parent)
        assert stored is not None
        with store.opened("stages", stage.parent) as directory:
            model = load_model(directory, DTYPES[stored["metrics"]["dtype"]])
    shard_(model, ranks)
    model.eval()
    length = min(job["max_length"], job["batch_tokens"])
    with timed(ranks) as clock:
        metrics = run_task(
            model,
            tokenizer,
            run.task,
            stage.fields["limit"],
            max(1, job["batch_tokens"] // length),
            job["max_length"],
        )
    record = {
        **stage.head(),
        "label": stage.text,
        "results": metrics,
        "metrics": clock,
        "environment": {
            **job["environment"],
            "machine": machine(job["device"]),
            "threads": job["threads"],
        },
    }
    with store.scratch() as directory:
        store.publish("stages", stage.id, directory, record)
