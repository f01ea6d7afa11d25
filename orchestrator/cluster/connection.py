"""The connection to Ray: join a cluster, or start Ray on this machine.

Starting Ray takes some five seconds in which this process only waits. So a thread does it while
the sweep is planned, where it is likely that there is work to run.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import nullcontext
from typing import Any

import ray

from orchestrator.cluster import messages as ray_messages
from orchestrator.cluster.ray_internals import started_here
from orchestrator.cluster.temp_folder import short_paths
from orchestrator.config import SweepConfig
from orchestrator.estimate.machine import num_cores
from orchestrator.out_dir import is_marked

DASHBOARD = "RAY_API_SERVER_ADDRESS"
"""Variable from which Ray's processes, which inherit it, learn the address of their dashboard."""
STARTING_WORKERS = "RAY_worker_maximum_startup_concurrency"
"""Ray warns on the terminal when it runs four times as many processes as this, the number of cores
by default. Two trials on two cores take eight processes, most of which only wait."""
EARLY_WORKERS = "RAY_prestart_worker_first_driver"
"""Ray starts a worker for each core in advance. None of ours can use one, since each has an
environment of its own, and they take half a second of a core each."""
ANSWER_SECONDS = 5.0
"""Longest wait for a sign of life of a cluster that was started on this machine."""


class Connection(threading.Thread):
    """A thread that joins or starts Ray, and lives as long as the connection.

    Linux ends the processes that Ray starts here when the thread that started them ends.
    """

    current: Connection | None = None
    """The connection of this process."""

    def __init__(self) -> None:
        """Begin to join or start Ray."""
        super().__init__(name="connection to Ray", daemon=True)
        self.ready, self.over = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Join or start Ray; leave it again when the connection is over."""
        try:
            join_or_start()
        except BaseException as error:
            self.error = error
        self.ready.set()
        self.over.wait()
        ray.shutdown()


def begin_early(config: SweepConfig) -> None:
    """Begin to start Ray here if a sweep is likely to need it; `connect` waits for it.

    A sweep into a new folder has work to run. Another one may be done already, and a dry run starts
    nothing. A cluster is joined within a second, so that can wait until the input was checked.
    """
    output = config.output
    is_new = "://" not in output.out_dir and not is_marked(output.out_dir)
    is_needed = is_new and not output.dry_run and not os.environ.get("RAY_ADDRESS")
    if is_needed and Connection.current is None:
        Connection.current = Connection()


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names or `ray start` started, or start Ray here."""
    connection = Connection.current
    if connection is None:
        connection = Connection.current = Connection()
    connection.ready.wait()
    if connection.error is not None:
        disconnect()
        raise connection.error
    ray_messages.tell_in_lines()
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def disconnect() -> None:
    """Leave Ray, and stop a Ray that was started here; nothing happens without a connection.

    The caller waits: a reference to an object of Ray that Python frees meanwhile ends the process.
    """
    connection, Connection.current = Connection.current, None
    if connection is not None:
        connection.over.set()
        connection.join()


def join_or_start() -> None:
    """Join or start Ray in this process."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**options)
        return
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
    os.environ.setdefault(EARLY_WORKERS, "false")
    try:
        with nullcontext({}) if joins else short_paths() as place:
            ray.init(**options | place, include_dashboard=True, dashboard_port=port)
    finally:
        del os.environ[DASHBOARD]


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
