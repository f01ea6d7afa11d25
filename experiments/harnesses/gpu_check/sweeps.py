"""Part: sweeps through Ray. The cases build on each other, in their order.

Two trials share the card; the same command again computes nothing; a killed worker changes no row.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from faults.sweeps import WORKER
from sweep_process import COMPARED, Sweep, check_files, rows_of, send, title_of

from gpu_check.findings import Finding
from gpu_check.sizes import Place
from orchestrator.store.store import Store

GRID = "--methods magnitude sparsegpt --regimes finetune --sparsities 0.5 0.7".split()
PERPLEXITY = COMPARED.index("perplexity")


def start(place: Place, out: Path, *flags: str) -> Sweep:
    """Start a small sweep on the device, in a cluster, a home and a Ray folder of its own.

    Ray's shared folder may hold the address of a dead cluster, and a sweep would wait for it.
    """
    (place.folder / "home").mkdir(exist_ok=True)
    os.environ.pop("RAY_ADDRESS", None)
    # Ray keeps a token below the home.
    environment = {"HOME": str(place.folder / "home"), "RAY_AUTH_MODE": "disabled"}
    environment["RAY_TMPDIR"] = ray_folder()
    on_gpu = () if place.rehearsal else ("--use-gpu", *flags)
    return Sweep(out, *GRID, *on_gpu, **environment)


@functools.cache
def ray_folder() -> str:
    """Return a new folder with a short path: sockets lie in it."""
    folder = tempfile.mkdtemp(prefix="gpu-check-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def share_card(place: Place) -> Finding:
    """Run two trials at once, each with half of the card (a rehearsal: each with one core)."""
    out = place.folder / "shared"
    sweep, most = start(place, out, "--gpus-per-worker", "0.5"), 0
    while sweep.process.poll() is None:
        workers = [each for each in sweep.family() if title_of(each).startswith(WORKER)]
        most = max(most, len(workers))
        time.sleep(0.1)
    finding = finished(sweep, out)
    finding.figures["workers_at_once"] = most
    finding.text += f", {most} workers at once"
    finding.require(most >= 2, "the trials did not run at the same time")
    return finding


def run_again(place: Place) -> Finding:
    """Run the same sweep with the whole card; no stage may be computed."""
    out = place.folder / "shared"
    before = Store(str(out)).stages.manifests()
    finding = finished(start(place, out), out)
    after = Store(str(out)).stages.manifests()
    new = sum(after[stage] != before.get(stage) for stage in after)
    finding.figures["stages_computed"] = new
    finding.text += f", {new} of {len(after)} stages computed"
    finding.require(new == 0 and bool(before), "stages were computed again")
    return finding


def kill_worker(place: Place) -> Finding:
    """Kill the worker of a new sweep while it works; its rows equal those of the first sweep."""
    out = place.folder / "killed"
    sweep = start(place, out)
    # The first finished stage shows that the worker works.
    while sweep.process.poll() is None and not Store(str(out)).stages.ids():
        time.sleep(0.05)
    kills = send(sweep.wait_for(WORKER))
    finding = finished(sweep, out)
    change = row_change(rows_of(place.folder / "shared"), rows_of(out))
    bound = 0.0 if place.rehearsal else 1e-3
    finding.figures |= {"kills": kills, "perplexity_change": change}
    finding.text += f", {kills} kill, perplexities differ by {change:.0e}"
    finding.require(kills == 1, "there was no worker to kill")
    finding.require(change <= bound, f"rows differ from those of the first sweep by {change:.0e}")
    return finding


def finished(sweep: Sweep, out: Path) -> Finding:
    """Wait for the end, read every file and check the sparsity of each row."""
    try:
        sweep.end()
    except AssertionError as error:
        raise RuntimeError("the sweep failed: " + str(error).strip().splitlines()[-1]) from error
    check_files(out)
    rows = [dict(zip(COMPARED, row)) for row in rows_of(out).values()]
    finding = Finding(f"{len(rows)} cells", {"cells": len(rows)})
    finding.require(all(row["status"] == "done" for row in rows), "a cell is not done")
    exact = all(abs(row["measured_sparsity"] - row["sparsity"]) < 1e-4 for row in rows)
    finding.require(exact, "a measured sparsity is not the wanted one")
    return finding


def row_change(expected: dict[Any, tuple], found: dict[Any, tuple]) -> float:
    """Return the largest relative change of a perplexity; infinity where other cells are there."""
    if expected.keys() != found.keys():
        return float("inf")
    pairs = [(expected[key][PERPLEXITY], found[key][PERPLEXITY]) for key in expected]
    return max(abs(new / old - 1) for old, new in pairs)


CASES = {"two share the card": share_card, "again": run_again, "killed worker": kill_worker}
