"""What Ray Train lets a worker group do for ever while it starts: keep its place, and not answer.

Between the moment when Ray Train counts a group as started and the one when its workers have been
given their function, the controller does not know the group yet. A worker that is lost just then
ends the run, and the group's placement group stays with the job (Ray 2.60): every later group waits
for cores that nobody uses. And until a worker has its function nobody asks it for a sign of life,
so that one which hangs before that would hold up its trial for ever.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import ray
from ray import ActorID
from ray._private.state import actors
from ray._private.worker import global_worker
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    PlacementGroupHandle,
)

logger = logging.getLogger(__name__)

WORKER_CLASS = "RayTrainWorker"


class PlaceRelease(ControllerCallback, WorkerGroupCallback):
    """Gives a started group's place back where the controller ends without having done so."""

    def __init__(self) -> None:
        self.held: PlacementGroupHandle | None = None

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Remembers the place."""
        self.held = worker_group.get_worker_group_state().placement_group_handle

    def before_worker_group_shutdown(self, worker_group: WorkerGroup) -> None:
        """Ray knows the group, and gives its place back itself."""
        self.held = None

    async def before_controller_shutdown(self) -> None:
        """The last that is heard of a run."""
        if self.held is not None:
            self.held.shutdown()
            self.held = None


class StartLimit(ControllerCallback, WorkerGroupCallback):
    """Kills the workers of a group that has not started in time; Ray then fails the start."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """From the wish for a place, whose wait has a limit of its own, until all workers work."""
        self.timer: threading.Timer | None = None

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Sets the clock."""
        self.stop()
        controller = ray.get_runtime_context().get_actor_id()
        self.timer = threading.Timer(self.seconds, kill_workers_of, [controller])
        self.timer.daemon = True
        self.timer.start()

    def after_worker_group_training_start(self, worker_group: WorkerGroup) -> None:
        """From here on Ray asks for signs of life."""
        self.stop()

    async def before_controller_shutdown(self) -> None:
        """Nothing starts any more."""
        self.stop()

    def stop(self) -> None:
        """Forgets the clock."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def kill_workers_of(controller: str) -> None:
    """Kills every worker that a controller, this process, has made.

    Ray hands them out only once they have answered, so they are looked for by their owner.
    """
    logger.warning("a worker group did not start in time")
    address = actors(controller)["Address"]
    core: Any = global_worker.core_worker  # pyright: ignore[reportAttributeAccessIssue]
    for actor in actors().values():
        if actor["ActorClassName"] == WORKER_CLASS and actor["OwnerAddress"] == address:
            core.kill_actor(ActorID(bytes.fromhex(actor["ActorID"])), True)
