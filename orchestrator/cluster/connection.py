"""Ray itself: connect or start, what fits, and a Tune run over the trials."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import ray

from orchestrator import interruption
from orchestrator.cluster import messages as ray_messages

DASHBOARD = "RAY_API_SERVER_ADDRESS"
"""What Ray's processes, which inherit it, take for the address of their dashboard."""
STARTING_WORKERS = "RAY_worker_maximum_startup_concurrency"
"""Once Ray runs four times as many processes, cores by default, it warns on the terminal; two
trials on two cores take eight, most of which only wait."""


def connect() -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts one on this machine."""
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**options)
    else:
        # The dashboard stays on: without it a killed trial does not give its resources back. What
        # sees to that looks for the only Ray of this machine, unless it is told where its own is.
        port = free_port()
        os.environ[DASHBOARD] = f"http://127.0.0.1:{port}"
        os.environ.setdefault(STARTING_WORKERS, str(max(8, os.cpu_count() or 1)))
        try:
            ray.init(**options, include_dashboard=True, dashboard_port=port)
        finally:
            del os.environ[DASHBOARD]
    ray_messages.tell_in_lines()
    interruption.install()  # Ray has just put its own handler of SIGTERM in place.
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
