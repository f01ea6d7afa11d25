"""One zero-shot task on one model, run in a process of its own."""

from __future__ import annotations

from typing import Any

from core.measures.zero_shot import run_task
from orchestrator.plan.tasks import TaskRun
from orchestrator.store.store import Store


def work(run: TaskRun, job: dict[str, Any]) -> None:
    """Evaluates one task in a process of its own and stores the metrics."""
    import torch

    from core.models.loading import load_model, load_tokenizer
    from core.models.sharding import shard_
    from core.parallel import Ranks
    from core.precision import DTYPES
    from orchestrator.results.versions import machine
    from orchestrator.trial.clock import restart_peak, timed

    torch.set_num_threads(job["threads"])
    store, stage = Store(job["store_root"]), run.stage
    ranks = Ranks.current(torch.device(job["device"]))
    restart_peak(ranks.device)
    tokenizer = load_tokenizer(job["source"])
    if run.dense:
        model = load_model(job["source"], DTYPES[job["dtype"]])
    else:
        assert stage.parent is not None
        stored = store.stages.at(stage.parent).manifest()
        assert stored is not None
        with store.stages.at(stage.parent).opened() as directory:
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
    with store.scratch.directory() as directory:
        store.stages.at(stage.id).publish(directory, record)
