"""Processor seconds, memory and bytes of a sweep of 30,000 cells before Ray starts.

    python experiments/benches/measure_scale.py [--seeds 176] [--slots 100]

Plans the embedded model with three methods, 19 sparsities and many seeds, packs all stages into
trials and makes their jobs. Nothing runs, and nothing is written but an empty directory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.jobs import trial_job
from orchestrator.plan.trials import pack_trials, shared_stages
from orchestrator.preparation import prepare

STAGE_SECONDS = 300.0
"""Assumed seconds of every stage, so that slots have as many trials as they may."""


@contextmanager
def told(name: str) -> Iterator[None]:
    """Print the processor's seconds of the body, and the memory that the process has gained."""
    start, before = time.process_time(), psutil.Process().memory_info().rss
    yield
    gained = (psutil.Process().memory_info().rss - before) / 1e6
    print(f"{name:<6} {time.process_time() - start:6.2f} s {gained:6.0f} MB", flush=True)


def main() -> None:
    """Plan, pack and make the jobs; print what each takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=176)
    parser.add_argument("--slots", type=int, default=100)
    flags = parser.parse_args()
    sparsities = [f"{i / 20:g}" for i in range(1, 20)]
    grid = ["--methods", "magnitude", "wanda", "sparsegpt", "--sparsities", *sparsities]
    grid += ["--seeds", *map(str, range(flags.seeds))]
    with tempfile.TemporaryDirectory() as folder:
        config = parse(SweepConfig(), [*grid, "--out-dir", str(Path(folder) / "out")], "")
        with told("plan"):
            sweep = prepare(config)
        with told("pack"):
            costs = dict.fromkeys(sweep.plan.stages, STAGE_SECONDS)
            trials = pack_trials(sweep.plan, sweep.cells, sweep.needed, costs, flags.slots)
        with told("jobs"):
            shared = shared_stages(trials)
            packed = [trial_job(sweep, trial, shared).packed() for trial in trials]
    print(f"{len(sweep.cells):,} cells, {len(sweep.needed):,} stages, {len(trials)} trials")
    sizes = [len(job) / 1e6 for job in packed]
    print(f"jobs: {sum(sizes):.2f} MB in all, {max(sizes):.3f} MB the largest")


if __name__ == "__main__":
    main()
