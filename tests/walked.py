"""A sweep without Ray, for tests of what goes wrong: its trials one after another, and its rows."""

from core.parallel import Ranks
from orchestrator.inputs.tokens import missing_tokens, save_tokens
from orchestrator.plan.job import Job
from orchestrator.plan.trials import shared_stages
from orchestrator.preparation import prepare, require_writable
from orchestrator.store.store import Store
from orchestrator.sweep import make_job, trials_of
from orchestrator.trial.walk import Walk

MEASURED = ("seconds", "finished_at", "peak_memory", "config", "code_version", "sweep_id")
"""Parts of names of columns that two equal runs may differ in."""


def walk(config):
    """What a sweep does, in this process."""
    sweep = prepare(config)
    require_writable(sweep.store)
    sweep.store.stages.set_aside(sweep.damaged)
    for job in jobs_of(sweep):
        Walk(job, sweep.store, Ranks.current(), lambda metrics: None).run()
    return sweep


def jobs_of(sweep):
    """The sweep's trials as their workers get them, one for each model and method."""
    stages = {stage: sweep.plan.stages[stage] for stage in sweep.needed}
    save_tokens(sweep.store, missing_tokens(sweep.models, stages, sweep.store))
    models = {m.inputs.name: m for m in sweep.models}
    trials = trials_of(sweep, 1)
    made = [make_job(sweep, models[t.model], t, shared_stages(trials)) for t in trials]
    return [Job.from_dict(job.to_dict()) for job in made]


def rows_of(out_dir):
    """All rows of a store without what is measured anew each time."""
    return {
        key: {n: v for n, v in row.items() if not any(part in n for part in MEASURED)}
        for key, row in Store(str(out_dir)).rows.read().items()
    }
