"""Runs what is missing of a sweep on Ray: its trials, and zero-shot tasks of finished cells.

It imports Ray Tune and Ray Train, which a finished sweep does without.
"""

from __future__ import annotations

import logging

from orchestrator.cluster import connection, slots, tune
from orchestrator.cluster.hang import why_off
from orchestrator.cluster.lone_stages import run_alone
from orchestrator.cluster.progress import Progress
from orchestrator.cluster.pulse import Pulse
from orchestrator.cluster.trackers import callbacks_of
from orchestrator.jobs import task_job, trial_job
from orchestrator.plan.trials import shared_stages
from orchestrator.preparation import Sweep, Texts, trials_of

logger = logging.getLogger(__name__)


def run_trials(sweep: Sweep, texts: Texts) -> set[str]:
    """Join or start Ray, and run the trials; tokens of training texts are made meanwhile.

    Returns:
        The stages whose weights outlive their trials.
    """
    texts.training.start()
    connection.connect()
    found = slots.slots_of_cluster(sweep.resources)
    trials = trials_of(sweep, texts.seconds, found.count)
    shared = shared_stages(trials) | sweep.held
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
    return shared


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
    stored = sweep.store.stages.manifests({str(stage.parent) for stage in missing})
    kept = {name for name, manifest in stored.items() if not manifest.get("dropped")}
    kept |= {root.id for root in sweep.plan.roots()}
    # A cell without its weights has failed, and its row says so.
    stages = [stage for stage in missing if stage.parent in kept]
    if not stages:
        return 0
    connection.connect()
    return run_alone([task_job(sweep, stage) for stage in stages], sweep.config.resources)
