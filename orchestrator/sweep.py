"""A sweep from plan to results: run what is missing, collect. Running it again resumes it."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace

import torch

from orchestrator.blocks import lines_left_out
from orchestrator.cluster import slots
from orchestrator.cluster.temp_folder import temp_folder
from orchestrator.cluster.trackers import require_usable
from orchestrator.config import SweepConfig
from orchestrator.dry_run import describe_plan, step_lines
from orchestrator.estimate.devices import gpus_per_worker, usable_bytes
from orchestrator.estimate.memory import memory
from orchestrator.estimate.plans import require_tasks_fit, require_training_fits
from orchestrator.estimate.streaming import untrained_bytes
from orchestrator.inputs.tokens import save_tokens
from orchestrator.out_dir import mark
from orchestrator.preparation import (
    Sweep,
    Texts,
    planned,
    prepare,
    read_texts,
    trials_of,
    write_record,
)
from orchestrator.report import collect
from orchestrator.results.collection import refresh_results
from orchestrator.results.keeping import TEMPORARY, Keeping
from orchestrator.worker_cores import with_cores


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
        sweep = with_cores(sweep, texts)
        planned = slots.planned_slots(sweep.resources)
        trials = trials_of(sweep, texts.seconds, planned)
        print(describe_plan(sweep, texts, trials, planned))
        return 0
    mark(sweep.store)
    to_run = [sweep.plan.stages[stage] for stage in sweep.needed]
    for line in (*lines_left_out(config), *step_lines(to_run, resources.num_workers)):
        print(line, flush=True)
    sweep.store.save_indexes()
    sweep.store.stages.set_aside(sweep.found.damaged)
    if told := sweep.store.remove_leftovers(sweep.found.manifests):
        print(told, flush=True)
    record = write_record(sweep)
    if sweep.cells:
        # An earlier run may have been killed before it collected its rows; this one may be too.
        refresh_results(sweep.store, record)
        save_tokens(sweep.store, texts.tokens)
        sweep = run_rounds(sweep, texts)
    else:
        print(f"all {len(sweep.plan.cells)} cells already done")
        drop_leftovers(sweep)
    failed_tasks = run_tasks(sweep)
    return max(collect(sweep), int(failed_tasks > 0))


def run_missing(sweep: Sweep, texts: Texts) -> set[str]:
    """Run the missing trials on Ray; return the stages whose weights outlive them."""
    # It imports Ray Tune and Ray Train: two seconds that a finished sweep does without.
    from orchestrator.missing_work import run_trials

    return run_trials(with_cores(sweep, texts), texts)


def run_rounds(sweep: Sweep, texts: Texts) -> Sweep:
    """Run what is missing, and what a search asks for next, until it asks for nothing more.

    Weights that nobody wants are dropped then.

    Returns:
        The sweep with all cells that the search has added.
    """
    outlive = run_missing(sweep, texts)
    while (further := next_round(sweep)) is not None:
        sweep = further
        write_record(sweep)
        texts = read_texts(sweep)
        save_tokens(sweep.store, texts.tokens)
        print(f"the search asks for {len(sweep.cells)} further cells", flush=True)
        outlive |= run_missing(sweep, texts)
    drop_leftovers(sweep, outlive)
    return sweep


def next_round(sweep: Sweep) -> Sweep | None:
    """Return the sweep with the cells that its search asks for now; None if it has ended.

    It also ends where cells were not run at all: whatever kept them from it would do so again.
    """
    if not any(sweep.plan.within):
        return None
    further = planned(without_retries(sweep.config), sweep.resolved, sweep.store)
    new = further.plan.cells.keys() - sweep.plan.cells.keys()
    if not new or any(cell.id not in new for cell in further.cells):
        return None
    return replace(further, attempt=sweep.attempt, sources=sweep.sources)


def without_retries(config: SweepConfig) -> SweepConfig:
    """Return settings that leave failed cells alone: an earlier round has tried them again."""
    return replace(config, output=replace(config.output, retry_failed=False))


def run_tasks(sweep: Sweep) -> int:
    """Run the missing tasks of finished cells on Ray; return how many failed."""
    if not sweep.missing_tasks():
        return 0
    from orchestrator import missing_work

    return missing_work.run_tasks(sweep)


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


def drop_leftovers(sweep: Sweep, shared: Collection[str] = ()) -> None:
    """Drop weights that the keep policy does not keep and that no trial drops.

    Several trials share them, or an earlier run of this sweep was stopped before it dropped them.
    """
    keeping, found = Keeping(sweep.store, sweep.id), sweep.found.manifests
    left = {s for s in sweep.found.kept if found[s].get(TEMPORARY) == sweep.id}
    for stage in sorted(sweep.dropped.intersection(left.union(shared))):
        keeping.drop(stage)
