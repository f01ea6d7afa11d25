"""Two callbacks against worker groups of Ray Train that hang while they start.

Ray's controller learns of a group only when all its workers have got their function. If a worker is
lost just before, the run ends and the group's place stays taken (Ray 2.60): every later group waits
for cores that nobody uses. And Ray checks a worker for signs of life only when it has its function,
so a worker that hangs earlier holds up its trial for ever.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import ray

from orchestrator.cluster.ray_internals import GroupCallback, kill_workers_of, place_of

logger = logging.getLogger(__name__)


class PlaceRelease(GroupCallback):
    """Gives a started group's place back if the controller ends without doing so."""

    def __init__(self) -> None:
        self.held: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Remember the place."""
        self.held = place_of(worker_group)

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Forget the place: Ray knows the group and gives it back itself."""
        self.held = None

    async def before_controller_shutdown(self) -> None:
        """Give back the place of a group that Ray has not shut down."""
        if self.held is not None:
            self.held.shutdown()
            self.held = None


class StartLimit(GroupCallback):
    """Kills the workers of a group that has not started in time; Ray then fails the start."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """From the request for a place (its wait has a limit of its own) until all workers work."""
        self.timer: threading.Timer | None = None

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Start the timer."""
        self.stop()
        controller = ray.get_runtime_context().get_actor_id()
        self.timer = threading.Timer(self.seconds, end_start, [controller])
        self.timer.daemon = True
        self.timer.start()

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """Stop the timer: from here on Ray checks for signs of life."""
        self.stop()

    async def before_controller_shutdown(self) -> None:
        """Stop the timer: nothing starts any more."""
        self.stop()

    def stop(self) -> None:
        """Stop the timer, if it runs."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def end_start(controller: str) -> None:
    """Kill the workers of a controller, whose group has taken too long to start."""
    logger.warning("a worker group did not start in time")
    kill_workers_of(controller)
