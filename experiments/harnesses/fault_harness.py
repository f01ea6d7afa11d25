"""Do stores and rows survive kills, several processes, bad networks, full disks and damage?

    python experiments/harnesses/fault_harness.py  # everything, some 40 minutes
    python experiments/harnesses/fault_harness.py --only kills processes namespaces objects
    python experiments/harnesses/fault_harness.py --only driver worker --seed 1 --work DIR

Four faults need no sweep: `kills` kills stand-in acts before each of their file operations;
three `processes` share a store for 60 s; `namespaces` plays containers; `objects` plays an object
store on a bad network. Each other fault disturbs a small sweep in a store of its own. Then the same
command runs to its end. The rows must be those of an undisturbed run: equal cells, none lost or
doubled, perplexities equal to the last bit. `disk` mounts a tmpfs of a few MB. If that is not
allowed, it limits the size of a worker's files instead, and says so.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from faults import kills, namespaces, objects, processes
from faults.limits import damage, fill_disk, not_finite, out_of_memory
from faults.sweeps import (
    TRIAL,
    WORKER,
    interrupt,
    kill_driver,
    kill_node,
    kill_processes,
    stuck,
    two_sweeps,
)
from sweep_process import Sweep, check_files, rows_of

STORE_FAULTS: dict[str, Callable[[Path], str]] = {
    "kills": lambda work: f"{kills.run([])} kills, nothing half done, lost or left",
    "processes": lambda work: processes.share(str(work / "out")),
    "namespaces": lambda work: namespaces.run(work / "out"),
    "objects": lambda work: objects.share(),
}
"""For each name the function that disturbs a store and returns a line about it."""
SWEEP_FAULTS: dict[str, tuple[Callable[[Path, random.Random, int], int], int]] = {
    "worker": (lambda *a: kill_processes(WORKER, *a), 10),
    "trial": (lambda *a: kill_processes(TRIAL, *a), 5),
    "driver": (kill_driver, 6),
    "term": (lambda *a: interrupt(signal.SIGTERM, False, *a), 3),
    "ctrl-c": (lambda *a: interrupt(signal.SIGINT, True, *a), 3),
    "node": (kill_node, 4),
    "disk": (fill_disk, 0),
    "damage": (damage, 0),
    "two": (two_sweeps, 0),
    "nan": (not_finite, 0),
    "memory": (out_of_memory, 0),
    "stuck": (stuck, 1),
}
"""For each name the function that disturbs a sweep, and its number of kills."""


def disturb_sweeps(names: list[str], work: Path, seed: int) -> None:
    """Disturb one sweep after another and print a line for each."""
    if not (work / "undisturbed" / "results.parquet").exists():
        Sweep(work / "undisturbed").end()
    expected, total = rows_of(work / "undisturbed"), 0
    print(f"{len(expected)} cells a sweep; stores in {work}", flush=True)
    for name in names:
        fault, count = SWEEP_FAULTS[name]
        start = time.monotonic()
        total += (done := fault(work / name, random.Random(f"{seed} {name}"), count))
        Sweep(work / name).end()
        assert rows_of(work / name) == expected, f"{name}: rows differ"
        check_files(work / name)
        seconds = time.monotonic() - start
        print(f"{name:<10} {done} kills, {len(expected)} cells equal, {seconds:.0f} s", flush=True)
    print(f"{total} kills of sweeps; no cell lost, doubled or different")


def main() -> None:
    """Run the faults and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = [*STORE_FAULTS, *SWEEP_FAULTS]
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help="a directory; a temporary one by default")
    flags = parser.parse_args()
    work = Path(flags.work or tempfile.mkdtemp(prefix="faults-"))
    (work / "home").mkdir(parents=True, exist_ok=True)
    # A home of its own, because Ray keeps a token there.
    os.environ |= {"HOME": str(work / "home"), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    os.environ.pop("RAY_ADDRESS", None)
    for name in (name for name in flags.only if name in STORE_FAULTS):
        start = time.monotonic()
        told = STORE_FAULTS[name](work / name)
        print(f"{name:<10} {told}, {time.monotonic() - start:.0f} s", flush=True)
    if names := [name for name in flags.only if name in SWEEP_FAULTS]:
        disturb_sweeps(names, work, flags.seed)


if __name__ == "__main__":
    main()
