"""A sweep from plan to results: run what is missing, collect. Running it again resumes it."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

import torch

from orchestrator.cluster import connection, slots, tune
from orchestrator.cluster.hang import why_off
from orchestrator.cluster.lone_stages import run_alone
from orchestrator.cluster.progress import Progress
from orchestrator.cluster.pulse import Pulse
from orchestrator.cluster.temp_folder import temp_folder
from orchestrator.cluster.trackers import callbacks_of, require_usable
from orchestrator.config import SweepConfig
from orchestrator.dry_run import describe_plan
from orchestrator.estimate.devices import gpus_per_worker, usable_bytes
from orchestrator.estimate.memory import memory
from orchestrator.estimate.plans import require_tasks_fit, require_training_fits
from orchestrator.estimate.streaming import untrained_bytes
from orchestrator.inputs.tokens import save_tokens
from orchestrator.jobs import task_job, trial_job
from orchestrator.out_dir import mark
from orchestrator.plan.trials import shared_stages
from orchestrator.preparation import (
    Sweep,
    Texts,
    prepare,
    read_texts,
    trials_of,
    write_record,
)
from orchestrator.report import collect
from orchestrator.results.collection import refresh_results
from orchestrator.results.keeping import TEMPORARY, Keeping

logger = logging.getLogger(__name__)


def run_sweep(config: SweepConfig) -> int:
    """Run what is missing of a sweep; return the exit code.

    The connection to Ray, if it needs one, stays open: `connection.disconnect` ends it.

    Raises:
        ValueError: bad input, before Ray starts and before anything is written. Only what does not
            fit the cluster of RAY_ADDRESS is found after joining it; no row has changed by then.
    """
    resources = config.resources
    require_usable(config.output.trackers)
    on_cluster = bool(os.environ.get("RAY_ADDRESS"))
    # A dry run may plan for a cluster that is not there yet.
    if not (on_cluster or config.output.dry_run):
        slots.require_fits(resources)
        temp_folder()
    sweep = prepare(config)
    texts = read_texts(sweep)
    if not on_cluster and not config.output.dry_run:
        require_memory(sweep)
    if config.output.dry_run:
        planned = slots.planned_slots(resources)
        trials = trials_of(sweep, texts.seconds, planned)
        print(describe_plan(sweep, texts, trials, planned))
        return 0
    mark(sweep.store)
    sweep.store.save_indexes()
    sweep.store.stages.set_aside(sweep.found.damaged)
    if told := sweep.store.remove_leftovers(sweep.found.manifests):
        print(told, flush=True)
    record = write_record(sweep)
    if sweep.cells:
        # An earlier run may have been killed before it collected its rows; this one may be too.
        refresh_results(sweep.store, record)
        save_tokens(sweep.store, texts.tokens)
        run_missing(sweep, texts)
    else:
        print(f"all {len(sweep.plan.cells)} cells already done")
        drop_leftovers(sweep)
    failed_tasks = run_tasks(sweep)
    connection.begin_end()
    return max(collect(sweep), int(failed_tasks > 0))


def require_memory(sweep: Sweep) -> None:
    """Refuse training and tasks of a model that does not fit the workers of this machine."""
    resources, device = sweep.config.resources, torch.device(sweep.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        return
    count, tokens = resources.num_workers, sweep.micro_batch_tokens
    gpus = gpus_per_worker(resources)
    usable = usable_bytes(device, count, gpus)
    tasks = {stage.model for stage in sweep.missing_tasks()}
    trained = {
        stage.model
        for stage in sweep.plan.stages.values()
        if stage.work.trains and stage.id in sweep.needed
    }
    for name, cost in sweep.costs.items():
        if name in trained:
            require_training_fits(cost, memory(cost, True, count, tokens), usable)
        if name in tasks:
            # A task has one process, and the machine for itself.
            whole = usable_bytes(device, 1, gpus)
            require_tasks_fit(name, untrained_bytes(cost, 1, tokens), whole)


def run_missing(sweep: Sweep, texts: Texts) -> None:
    """Join or start Ray, and run the trials; tokens of training texts are made meanwhile."""
    texts.training.start()
    resources = sweep.config.resources
    connection.connect()
    found = slots.slots_of_cluster(resources)
    trials = trials_of(sweep, texts.seconds, found.count)
    shared = shared_stages(trials)
    print(
        f"{len(sweep.cells)} of {len(sweep.plan.cells)} cells to run in {len(trials)} trials, "
        f"{min(found.count, len(trials))} at a time",
        flush=True,
    )
    awaited = texts.training.names
    jobs = [trial_job(sweep, trial, shared, awaited) for trial in trials]
    jobs = [found.settle(job, len(trials)) for job in jobs]
    for line in dict.fromkeys(filter(None, map(why_off, jobs))):
        print(line, flush=True)
    costs = cell_costs(sweep, texts)
    progress = Progress({cell.id: cell for cell in sweep.cells}, costs)
    pulse = Pulse(sweep.store, sweep.id, trials, costs, sweep.attempt)
    errors = tune.run_trials(
        [(trial.tune_view(), job) for trial, job in zip(trials, jobs, strict=True)],
        found,
        f"sweep-{sweep.id}",
        sweep.store.files.uri("ray"),
        [progress, pulse, *callbacks_of(sweep.config.output.trackers)],
    )
    for error in errors:
        logger.error("a trial ended early: %s", error.strip().splitlines()[-1])
    drop_leftovers(sweep, shared)


def drop_leftovers(sweep: Sweep, shared: Collection[str] = ()) -> None:
    """Drop weights that the keep policy does not keep and that no trial drops.

    Several trials share them, or an earlier run of this sweep was stopped before it dropped them.
    """
    keeping, found = Keeping(sweep.store, sweep.id), sweep.found.manifests
    left = {s for s in sweep.found.kept if found[s].get(TEMPORARY) == sweep.id}
    for stage in sorted(sweep.dropped.intersection(left.union(shared))):
        keeping.drop(stage)


def cell_costs(sweep: Sweep, texts: Texts) -> dict[str, float]:
    """Return the seconds that each cell adds, counting a shared stage for its first cell."""
    counted: set[str] = set()
    costs = {}
    for cell in sweep.cells:
        mine = {*cell.all_stages()} & sweep.needed - counted
        counted |= mine
        costs[cell.id] = sum(texts.seconds[stage] for stage in mine)
    return costs


def run_tasks(sweep: Sweep) -> int:
    """Join or start Ray and run the missing tasks of finished cells; return how many failed."""
    missing = sweep.missing_tasks()
    if not missing:
        return 0
    stored = sweep.store.stages.manifests({str(stage.parent) for stage in missing})
    kept = {name for name, manifest in stored.items() if not manifest.get("dropped")}
    kept |= {root.id for root in sweep.plan.roots()}
    # A cell without its weights has failed, and its row says so.
    stages = [stage for stage in missing if stage.parent in kept]
    if not stages:
        return 0
    connection.connect()
    return run_alone([task_job(sweep, stage) for stage in stages], sweep.config.resources)
