"""Private modules of Ray's core, version 2.60; those of Ray Train are in `train_internals.py`.

No other file of the project imports a private module of Ray. Ray has no public form of these: the
address of the Ray that `ray start` left, killing actors by their owner, and the printing of
messages from nodes. `tests/test_ray_internals.py` names each of them and says what breaks when Ray
moves it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray._private import state, worker
from ray._private.utils import read_ray_address

WORKER_CLASS = "RayTrainWorker"
"""Class of the actors that are Ray Train's workers."""


def started_here() -> str | None:
    """Return the address, host and port, of the Ray that `ray start` left on this machine.

    It may have ended since. None if there is no such address.
    """
    return read_ray_address() or None


def kill_workers_of(controller: str) -> None:
    """Kill every worker that this process, the controller with this actor id, has made.

    Ray Train hands workers out only when they have answered, so we search for them by their owner.
    """
    address = state.actors(controller)["Address"]
    core: Any = worker.global_worker.core_worker  # pyright: ignore[reportAttributeAccessIssue]
    for actor in state.actors().values():
        if actor["ActorClassName"] == WORKER_CLASS and actor["OwnerAddress"] == address:
            core.kill_actor(ray.ActorID.from_hex(actor["ActorID"]), True)


def print_messages_with(show: Callable[[dict[str, Any], bool], None]) -> None:
    """Let `show(data, ignore_prefix)` print the messages that Ray sends to this process.

    `data["lines"]` holds the messages; each may have many lines.
    """
    worker.print_to_stdstream = show
