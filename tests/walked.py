"""A sweep without Ray: its trials one after another in this process, and its rows."""

import pickle

from core.ranks import Ranks
from orchestrator.inputs.tokens import save_tokens
from orchestrator.jobs import trial_job
from orchestrator.out_dir import mark
from orchestrator.plan.trials import shared_stages
from orchestrator.preparation import prepare, read_texts, trials_of
from orchestrator.store.store import Store
from orchestrator.trial.walk import Walk

MEASURED = ("seconds", "finished_at", "peak_memory", "config", "code_version", "sweep_id")
MEASURED += ("environment",)
MEASURED += ("_attempt",)
"""Parts of names of columns that two equal runs may differ in."""


def walk(config):
    """Run a sweep in this process; return it."""
    sweep = prepare(config)
    mark(sweep.store)
    sweep.store.stages.set_aside(sweep.found.damaged)
    run_missing(sweep)
    return sweep


def run_missing(sweep, texts=None):
    """Walk the trials of a sweep, as `orchestrator.sweep.run_missing` does on Ray."""
    for job in jobs_of(sweep, texts):
        Walk(job, sweep.store, Ranks.current(), lambda metrics: None).run()
    return set(sweep.held)


def jobs_of(sweep, texts=None):
    """Return the sweep's trials as their workers get them, one for each model."""
    texts = texts or read_texts(sweep)
    save_tokens(sweep.store, texts.tokens)
    texts.training.write()
    trials = trials_of(sweep, texts.seconds, 1)
    shared = shared_stages(trials) | sweep.held
    made = [trial_job(sweep, trial, shared) for trial in trials]
    return pickle.loads(pickle.dumps(made))


def rows_of(out_dir):
    """Return all rows of a store without what is measured anew each time."""
    return {
        key: {n: v for n, v in row.items() if not any(part in n for part in MEASURED)}
        for key, row in Store(str(out_dir)).rows.read().items()
    }
