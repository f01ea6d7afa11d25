"""What a worker group that dies while it starts would keep for ever: its place in the cluster.

Between the moment when Ray Train counts a group as started and the one when its workers have been
given their function, the controller does not know the group yet. A worker that is lost just then
ends the run, and the group's placement group stays with the job (Ray 2.60): every later group waits
for cores that nobody uses.
"""

from __future__ import annotations

from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    PlacementGroupHandle,
)


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
