"""The connection to Ray: join a cluster, or start Ray on this machine."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import nullcontext
from typing import Any

import ray

from orchestrator import interruption
from orchestrator.cluster import messages as ray_messages
from orchestrator.cluster.ray_internals import started_here
from orchestrator.cluster.temp_folder import short_paths
from orchestrator.estimate.machine import num_cores

DASHBOARD = "RAY_API_SERVER_ADDRESS"
"""Variable from which Ray's processes, which inherit it, learn the address of their dashboard."""
STARTING_WORKERS = "RAY_worker_maximum_startup_concurrency"
"""Ray warns on the terminal when it runs four times as many processes as this, the number of cores
by default. Two trials on two cores take eight processes, most of which only wait."""
ANSWER_SECONDS = 5.0
"""Longest wait for a sign of life of a cluster that was started on this machine."""


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names or `ray start` started, or start Ray here."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**options)
    else:
        left = started_here()
        joins = left is not None and answers(left)
        if left is not None and not joins:
            # Ray would wait for that cluster for ever.
            options["address"] = "local"
        if not joins:
            options["num_cpus"] = num_cores()  # Ray's own count of half a core is 0.
        # The dashboard stays on: without it Ray never gives the resources of a killed trial back.
        # The process that does so looks for the only Ray of this machine, unless it knows its own.
        port = free_port()
        os.environ[DASHBOARD] = f"http://127.0.0.1:{port}"
        os.environ.setdefault(STARTING_WORKERS, str(max(8, num_cores())))
        try:
            with nullcontext({}) if joins else short_paths() as place:
                ray.init(**options | place, include_dashboard=True, dashboard_port=port)
        finally:
            del os.environ[DASHBOARD]
    ray_messages.tell_in_lines()
    interruption.install()  # Ray has just replaced our handler of SIGTERM with its own.
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def free_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(address: str) -> bool:
    """Return True if somebody listens at an address, `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True
