"""Private modules of Ray Train, version 2.60; those of Ray's core are in `ray_internals.py`.

Ray has no public form of these: callbacks of Ray Train's controller, the processes that it starts,
the place that a worker group waits for and holds, Ray Train's errors and the reading of nccl's
reports. They take a second to import, so only processes that need them do so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.nccl_ras import parse_ras_schema
from ray.train.v2._internal.exceptions import (
    CollectiveTimeoutError,
    InsufficientClusterResourcesError,
    WorkerGroupStartupFailedError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    DefaultPlacementGroupHandle,
)
from ray.util.placement_group import PlacementGroup

__all__ = [
    "CollectiveTimeoutError",
    "InsufficientClusterResourcesError",
    "WorkerGroupStartupFailedError",
    "WorkerHealthCheckFailedError",
    "WorkerHealthCheckTimeoutError",
]


class LeanTrainer(TorchTrainer):
    """A TorchTrainer whose groups start without two processes that they do not need.

    One shares out the datasets of Ray Data, which no group here has. The other asks an autoscaler
    for machines, and every group waits for it. Each takes two seconds of a core to start.
    """

    may_grow = True
    """True if there is an autoscaler to ask."""

    def _create_default_callbacks(self) -> list[Any]:
        made: list[Any] = super()._create_default_callbacks()
        return [callback for callback in made if not isinstance(callback, DatasetsCallback)]

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        if not self.may_grow:
            given["scaling_policy"] = SteadyPolicy(self.scaling_config)
        return super()._initialize_and_run_controller(**given)


class SteadyPolicy(FixedScalingPolicy):
    """Groups of a fixed size in a cluster without an autoscaler: nothing is asked of one."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Send no request."""

    def _maybe_send_resource_request(self) -> None:
        """Send no request."""


class GroupCallback(ControllerCallback, WorkerGroupCallback):
    """Hooks into the controller of a worker group: a method named as Ray names it is called."""


def place_of(worker_group: Any) -> Any:
    """Return the handle of a started group's place; its `shutdown()` gives the place back."""
    return worker_group.get_worker_group_state().placement_group_handle


def wait_for_places_with(wait: Callable[[PlacementGroup], None]) -> None:
    """Let `wait(place)` wait for the places of all groups that this process, a controller, starts.

    Ray's own wait has a limit, after which the place is given up.
    """

    def until_ready(self: DefaultPlacementGroupHandle, timeout_seconds: float = 0) -> bool:
        wait(self.placement_group)
        return True

    DefaultPlacementGroupHandle.wait = until_ready


def started_collectives(report: str) -> list[dict[int, int]]:
    """Return how many collectives each rank has begun, for each group whose ranks differ in it.

    Args:
        report: the output of `ncclras -f json`; some versions of nccl write it with faults.
    """
    parsed = parse_ras_schema(report)
    if parsed is None:
        return []
    counts = [parsed.comm_op_counts[group] for group in parsed.mismatched_comms]
    return [{rank: sum(each.values()) for rank, each in group.items()} for group in counts]
