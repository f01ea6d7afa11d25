"""The function of a Train worker: it gives the walk its rank, and Ray its reports."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray.train
import ray.train.torch
import torch

from orchestrator.cluster.reach import WorkerShape, own_node
from orchestrator.cluster.sent_jobs import received
from orchestrator.failure import StuckError, carry_causes
from orchestrator.plan.job import Workers
from orchestrator.store.store import Store


def train_worker(config: dict[str, Any]) -> None:
    """Walk one trial on this rank; report once for each finished cell."""
    job = received(config)
    job = replace(job, workers=on_this_node(job.workers))
    # Only the ranks need these imports (3 s); the driver and Ray's controller import this module
    # too.
    from core.ranks import Ranks
    from orchestrator.trial.walk import Walk

    torch.set_num_threads(job.workers.threads)
    ranks = Ranks.current(ray.train.torch.get_device())
    report = within(ray.train.report, job.limits.timeout_seconds)
    try:
        Walk(job, Store(job.store_root), ranks, report, machine_goes).run()
    except Exception as error:
        carry_causes(error)
        raise


def on_this_node(workers: Workers) -> Workers:
    """Return a worker group that knows how many workers of the sweep run on this node at a time."""
    shape = WorkerShape(workers.threads, workers.gpus if workers.device == "cuda" else 0.0)
    fit = max(1, shape.count_on(own_node()))
    return replace(workers, at_once=min(fit, workers.at_once or fit))


def machine_goes() -> bool:
    """Return True on all ranks if a machine of this group will be taken away, as spot ones are.

    Ray compares the answers of all workers, so each of them has to ask (collective).
    """
    return ray.train.get_preemption_info() is not None


def within(
    report: Callable[[dict[str, Any]], None], seconds: float
) -> Callable[[dict[str, Any]], None]:
    """`report` that raises StuckError where nobody takes the report in time.

    Ray waits for ever for a controller that no longer asks.
    """

    def call(metrics: dict[str, Any]) -> None:
        outcome: queue.Queue[BaseException | None] = queue.Queue()

        def work() -> None:
            try:
                report(metrics)
            except BaseException as error:
                outcome.put(error)
            else:
                outcome.put(None)

        threading.Thread(target=work, daemon=True).start()
        try:
            error = outcome.get(timeout=seconds)
        except queue.Empty:
            raise StuckError(f"a report timed out: not taken within {seconds:g} s") from None
        if error is not None:
            raise error

    return call
