"""Harm to worker groups before they work, in a file that a process of Ray imports fast."""

import os
import signal

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback


class LosesItsWorker(WorkerGroupCallback):
    """A worker that dies between the start of its group and the start of its work."""

    def after_worker_group_start(self, worker_group):
        for worker in worker_group.get_workers():
            ray.kill(worker.actor)


class StopsItsWorker(WorkerGroupCallback):
    """A worker that hangs before it has its context."""

    def before_init_train_context(self, workers):
        for worker in workers:
            os.kill(worker.metadata.pid, signal.SIGSTOP)
        return {}
