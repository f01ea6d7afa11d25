"""run_sweep: plan, run what is missing, collect. Running it again is how to resume."""

from __future__ import annotations

import dataclasses
import json
import logging
import os

from orchestrator.cluster.trackers import callbacks_of, require_usable
from orchestrator.config import SweepConfig
from orchestrator.dry_run import describe_plan
from orchestrator.inputs.resolved import ResolvedModel
from orchestrator.inputs.tokens import save_tokens
from orchestrator.plan.identity import row_key
from orchestrator.plan.job import Job
from orchestrator.plan.trials import Trial, pack_trials, shared_stages, tune_view
from orchestrator.preparation import Sweep, prepare, read_texts, require_writable, write_record
from orchestrator.report import collect
from orchestrator.results import versions
from orchestrator.tasks import run_tasks

logger = logging.getLogger(__name__)


def run_sweep(config: SweepConfig) -> int:
    """Runs what is missing of a sweep; returns the exit code.

    Raises:
        ValueError: bad input, before Ray starts and before anything is written. Only what does not
            fit the cluster of RAY_ADDRESS is found once that is joined; no row has changed by then.
    """
    from orchestrator.cluster import slots

    require_usable(config.output.trackers)
    on_cluster = bool(os.environ.get("RAY_ADDRESS"))
    # A dry run may plan for a cluster that is not there yet.
    if not (on_cluster or config.output.dry_run):
        slots.num_slots(config.resources, slots.local_resources())
    sweep = prepare(config)
    tokens = read_texts(sweep)
    if config.output.dry_run:
        print(describe_plan(sweep, trials_of(sweep, slots.planned_slots(config.resources))))
        return 0
    require_writable(sweep.store)
    sweep.store.stages.set_aside(sweep.damaged)
    write_record(sweep)
    if sweep.cells:
        save_tokens(sweep.store, tokens)
        run_missing(sweep)
    else:
        print(f"all {len(sweep.plan.cells)} cells already done")
    failed_tasks = run_tasks(sweep)
    return max(collect(sweep), int(failed_tasks > 0))


def trials_of(sweep: Sweep, slots: int) -> list[Trial]:
    """The missing work, packed."""
    return pack_trials(sweep.plan, sweep.cells, sweep.needed, sweep.seconds, slots)


def run_missing(sweep: Sweep) -> None:
    """Starts Ray, runs the trials, and stops a Ray that was started here."""
    from orchestrator.cluster import connection as cluster
    from orchestrator.cluster import slots, tune
    from orchestrator.cluster.progress import Progress
    from orchestrator.cluster.pulse import Pulse

    resources = sweep.config.resources
    cluster.connect()
    try:
        slots = slots.slots_of_cluster(resources)
        trials = trials_of(sweep, slots)
        for cell in sweep.cells:
            for evaluation in cell.evaluations:
                # Not one that another sweep on this store has written meanwhile.
                if row_key(cell.id, evaluation) in sweep.rows:
                    sweep.store.rows.delete(row_key(cell.id, evaluation))
        models = {m.inputs.name: m for m in sweep.models}
        shared = shared_stages(trials)
        jobs = [make_job(sweep, models[trial.model], trial, shared) for trial in trials]
        total = len(sweep.plan.cells)
        print(
            f"{len(sweep.cells)} of {total} cells to run in {len(trials)} trials, "
            f"{min(slots, len(trials))} at a time",
            flush=True,
        )
        costs = cell_costs(sweep)
        progress = Progress({cell.id: cell for cell in sweep.cells}, costs)
        pulse = Pulse(sweep.store, sweep.id, trials, costs)
        errors = tune.run_trials(
            [(tune_view(trial), job.to_dict()) for trial, job in zip(trials, jobs)],
            resources,
            slots,
            f"sweep-{sweep.id}",
            sweep.store.files.uri("ray"),
            [progress, pulse, *callbacks_of(sweep.config.output.trackers)],
        )
        for error in errors:
            logger.error("a trial ended early: %s", error.strip().splitlines()[-1])
        for stage in shared & sweep.dropped:
            sweep.store.stages.drop_weights(stage)
    finally:
        cluster.ray.shutdown()


def cell_costs(sweep: Sweep) -> dict[str, float]:
    """Estimated seconds that each cell adds, counting a shared stage for its first cell."""
    counted: set[str] = set()
    costs = {}
    for cell in sweep.cells:
        mine = {*cell.all_stages()} & sweep.needed - counted
        counted |= mine
        costs[cell.id] = sum(sweep.seconds[stage] for stage in mine)
    return costs


def make_job(sweep: Sweep, model: ResolvedModel, trial: Trial, shared: set[str]) -> Job:
    """A trial with everything that its workers need; `shared` stages outlive it."""
    from orchestrator.cluster import slots

    config, plan = sweep.config, sweep.plan
    resources = config.resources
    micro_batch = sweep.micro_batch_tokens
    known = {stage.id for stage in trial.stages}
    known |= {stage for cell in trial.cells for stage in cell.all_stages()}
    # What earlier sweeps evaluated on these branches counts for --stop-perplexity.
    known |= {s.id for s in plan.stages.values() if s.kind == "evaluate" and s.parent in known}
    cost = sweep.costs[model.inputs.name]
    environment = versions.environment()
    root = next(s for s in plan.roots() if s.model == trial.model)
    return Job(
        id=trial.id,
        model=trial.model,
        method=trial.method,
        root=root.id,
        stages=trial.stages,
        known=tuple(plan.stages[stage] for stage in sorted(known | {root.id})),
        cells=trial.cells,
        source=dataclasses.asdict(model.source),
        dtype=model.inputs.dtype,
        store_root=sweep.store.files.uri(),
        drop=tuple(sorted(sweep.dropped - shared)),
        device=sweep.device,
        num_workers=resources.num_workers,
        threads=slots.cpus_per_worker(resources),
        micro_batch_tokens=micro_batch,
        checkpoint_seconds=config.output.checkpoint_seconds,
        timeout_seconds=resources.timeout_seconds,
        stop_perplexity=resources.stop_perplexity,
        memory_bytes=cost.memory(config.grid.trains, resources.num_workers, micro_batch),
        row_constants={
            "protocol": config.grid.protocol,
            "schedule": config.grid.schedule,
            "budget": config.finetune.budget,
            "num_workers": resources.num_workers,
            "device": sweep.device,
            "config": json.dumps(config.to_dict(), sort_keys=True),
            "sweep_id": sweep.id,
            "in_current_grid": True,
            **environment,
        },
        environment=environment,
        activation_checkpointing=resources.activation_checkpointing,
        cpu_offload=resources.cpu_offload,
    )
