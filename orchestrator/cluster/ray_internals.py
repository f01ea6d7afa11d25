"""Private modules of Ray 2.60: no other file of the project imports one.

Ray has no public form of these: the address of the Ray that `ray start` left, who owns an actor,
killing an actor by its id, callbacks of Ray Train's controller, the place that a worker group
waits for and holds, Ray Train's errors, the reading of nccl's reports, and the printing of messages
from nodes.
`tests/test_ray_internals.py` names each of them and says what breaks when Ray moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray._private import state, worker
from ray._private.utils import read_ray_address
from ray.train.v2._internal.callbacks.nccl_ras import parse_ras_schema
from ray.train.v2._internal.exceptions import (
    CollectiveTimeoutError,
    InsufficientClusterResourcesError,
    WorkerGroupStartupFailedError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
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

WORKER_CLASS = "RayTrainWorker"
"""Class of the actors that are Ray Train's workers."""


class GroupCallback(ControllerCallback, WorkerGroupCallback):
    """Hooks into the controller of a worker group: a method named as Ray names it is called."""


def started_here() -> str | None:
    """Return the address, host and port, of the Ray that `ray start` left on this machine.

    It may have ended since. None if there is no such address.
    """
    return read_ray_address() or None


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


def kill_workers_of(controller: str) -> None:
    """Kill every worker that this process, the controller with this actor id, has made.

    Ray Train hands workers out only when they have answered, so we search for them by their owner.
    """
    address = state.actors(controller)["Address"]
    core: Any = worker.global_worker.core_worker  # pyright: ignore[reportAttributeAccessIssue]
    for actor in state.actors().values():
        if actor["ActorClassName"] == WORKER_CLASS and actor["OwnerAddress"] == address:
            core.kill_actor(ray.ActorID.from_hex(actor["ActorID"]), True)


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


def print_messages_with(show: Callable[[dict[str, Any], bool], None]) -> None:
    """Let `show(data, ignore_prefix)` print the messages that Ray sends to this process.

    `data["lines"]` holds the messages; each may have many lines.
    """
    worker.print_to_stdstream = show
