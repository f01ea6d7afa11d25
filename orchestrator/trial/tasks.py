"""Zero-shot tasks: one task on one model, in a process that has no process group."""

from __future__ import annotations

from importlib.metadata import version

from core.measures.zero_shot import run_task
from core.models.tokenizers import load_tokenizer
from orchestrator.plan.kinds import Tasks
from orchestrator.plan.stages import Stage
from orchestrator.trial.clock import timed
from orchestrator.trial.workspace import Workspace


def run_tasks(space: Workspace, stage: Stage) -> None:
    """Run a task on the parent's weights and publish its metrics."""
    work, job = stage.work, space.job
    assert isinstance(work, Tasks)
    model, _ = space.weights.load(stage.parent, training=False)
    model.eval()
    tokens = job.workers.micro_batch_tokens
    length = min(job.max_seq_len, tokens)
    with timed(space.ranks) as clock:
        results = run_task(
            model,
            load_tokenizer(job.source),
            work.task.name,
            work.limit,
            max(1, tokens // length),
            job.max_seq_len,
        )
    used = {"lm_eval_version": version("lm_eval")}
    facts = {"label": work.task.label, "results": results, "versions": used}
    space.publish_metrics(stage, dict(clock), **facts)
