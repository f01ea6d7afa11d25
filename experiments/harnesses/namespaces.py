"""Namespaces of Linux, in which a harness plays machines and touches nothing outside.

Processes, mounts and the network are a script's own there. Needs root and iproute2.
"""

from __future__ import annotations

import os
import subprocess
import sys

INSIDE = "PRUNE_SWEEP_TRY_INSIDE"
UNSHARE = ["unshare", "-mnp", "--fork", "--mount-proc", "--kill-child"]
"""Begins a command that gets process, mount and network namespaces of its own."""


def run_inside() -> int | None:
    """Run this script again in namespaces of its own; return its exit code, or None inside."""
    if INSIDE in os.environ:
        return None
    command = [*UNSHARE, sys.executable, *sys.argv]
    return subprocess.run(command, env={**os.environ, INSIDE: "1"}).returncode


def make_network(address: str) -> None:
    """Make a bridge `lan` with an address that is not the loopback's; nothing leads out of it."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "lan", "type", "bridge")
    run("ip", "address", "add", f"{address}/24", "dev", "lan")
    run("ip", "link", "set", "lan", "up")


def run(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True)


def environment(home: str, **more: str) -> dict[str, str]:
    """Return this process's environment for a home, without its settings of Ray, with `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "HOME": home, "RAY_USAGE_STATS_ENABLED": "0", **more}
