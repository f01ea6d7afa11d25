"""Two callbacks for worker groups of Ray Train that start: places, and workers that hang.

Ray's controller learns of a group only when all its workers have got their function. If a worker is
lost just before, the run ends and the group's place stays taken (Ray 2.60): every later group waits
for cores that nobody uses. And Ray checks a worker for signs of life only when it has its function,
so a worker that hangs earlier holds up its trial for ever. Waiting for a place has no limit
(`room.py`).
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import ray
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

from orchestrator.cluster.ray_internals import kill_workers_of
from orchestrator.cluster.reach import WorkerShape, reach_of_cluster
from orchestrator.cluster.room import WAITING, NoRoomError, wait_for_room
from orchestrator.cluster.train_internals import GroupCallback, place_of, wait_for_places_with

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
    """Waits for a group's place without a limit, then kills workers that do not start in time."""

    def __init__(
        self, seconds: float, reports: TuneReportCallback | None = None, grows_unseen: bool = False
    ) -> None:
        """Take the limits of a group.

        Args:
            seconds: time from the moment that there is a place until all workers work.
            reports: takes the lines to tell while the group waits; None tells nobody.
            grows_unseen: nodes may come of which the cluster says nothing.
        """
        self.seconds, self.reports, self.grows_unseen = seconds, reports, grows_unseen
        self.timer: threading.Timer | None = None

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Get ready to wait for the group's place."""
        self.stop()
        num_workers = worker_group_context.num_workers
        shape = WorkerShape.from_resources(worker_group_context.resources_per_worker)

        def why_never() -> str | None:
            reach = reach_of_cluster()
            if self.grows_unseen or reach.may_hold_more():
                return None
            return reach.why_never(shape, num_workers)

        def wait(place: PlacementGroup) -> None:
            try:
                wait_for_room(place.wait, why_never, self.tell)
            except NoRoomError:
                remove_placement_group(place)
                raise
            self.begin()

        wait_for_places_with(wait)

    def tell(self, minutes: float) -> None:
        """Report to the terminal of the sweep that the group still waits."""
        line = f"waiting for room in the cluster for {minutes:.0f} min"
        if self.reports is not None:
            self.reports.after_report(None, [{WAITING: line}], None)  # pyright: ignore

    def begin(self) -> None:
        """Start the timer."""
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
