"""The function that each Train worker runs: Ray's context on one side, the walk on the other."""

from __future__ import annotations

from typing import Any

import ray.train
import ray.train.torch
import torch

from core.parallel import Ranks
from orchestrator.job import Job
from orchestrator.store import Store
from orchestrator.walk import Walk


def train_worker(config: dict[str, Any]) -> None:
    """Walks one trial on this rank; reports once per finished cell."""
    job = Job.from_dict(config)
    torch.set_num_threads(job.threads)
    ranks = Ranks.current(ray.train.torch.get_device())
    Walk(job, Store(job.store_root), ranks, ray.train.report).run()
