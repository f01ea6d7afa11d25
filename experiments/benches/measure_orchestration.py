"""Cost of a sweep beside its stages, and the work that sharing of stages saves.

    python experiments/benches/measure_orchestration.py  # the default sweep, 8 minutes
    python experiments/benches/measure_orchestration.py --methods magnitude --sparsities 0.5

Runs `sweep_opt.py` with the given flags into an empty directory, then again, then with one cell
alone, which tells what a command costs by itself. A naive loop would run every cell alone from the
dense model. Its time is not measured: it is the sum of the cells' stages, printed without and with
a start for each cell. The three times are kept beside the directory, so that the same command goes
on after an interruption.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.preparation import Sweep, prepare

SCRIPT = Path(__file__).parents[1] / "sweep_opt.py"
ONE_CELL = "--methods magnitude --regimes oneshot --sparsities 0.5".split()
WALL_RATIO, WALL_SECONDS, NAIVE_RATIO, AGAIN_SECONDS = 1.35, 30.0, 3.0, 15.0
"""Targets: wall time divided by stage seconds, and seconds on top; the naive loop's time divided by
wall time; seconds of a sweep that is done already."""


def main() -> None:
    """Run the three commands and print the report."""
    flags = sys.argv[1:]
    if {"-h", "--help"} & {*flags}:
        print(__doc__)
        return
    out = Path(tempfile.mkdtemp(prefix="cost-")) / "sweep"
    if "--out-dir" in flags:
        at = flags.index("--out-dir")
        out = Path(flags[at + 1])
        del flags[at : at + 2]
    lone = out.with_name(f"{out.name}-one-cell")
    times = {
        "whole": timed(out, "whole", flags),
        "again": timed(out, "again", flags),
        "alone": timed(lone, "alone", ONE_CELL),
    }
    sweep = finished(out, flags)
    start = times["alone"]["seconds"] - sum(seconds(finished(lone, ONE_CELL)).values())
    print()
    report(sweep, times["whole"], times["again"]["seconds"], start)


def timed(out: Path, name: str, flags: list[str]) -> dict[str, float]:
    """Run the sweep command, unless noted; return when it began and its seconds."""
    note = out.with_name(f"{out.name}-{name}.json")
    if not note.exists():
        began, start = time.time(), time.monotonic()
        subprocess.run([sys.executable, str(SCRIPT), *flags, "--out-dir", str(out)], check=True)
        note.write_text(json.dumps({"began": began, "seconds": time.monotonic() - start}))
    return json.loads(note.read_text())


def finished(out: Path, flags: list[str]) -> Sweep:
    """Return a sweep's plan with what its store holds."""
    return prepare(parse(SweepConfig(), [*flags, "--out-dir", str(out)], ""))


def seconds(sweep: Sweep) -> dict[str, float]:
    """Return the own seconds of each stage that was run."""
    return {stage: m["metrics"]["seconds"] for stage, m in sweep.found.manifests.items()}


def report(sweep: Sweep, whole: dict[str, float], again: float, start: float) -> None:
    """Print where the wall time went, and the figures with their targets."""
    own, wall = seconds(sweep), whole["seconds"]
    ends = {stage: m["metrics"]["finished_at"] for stage, m in sweep.found.manifests.items()}
    order = sorted(ends, key=ends.__getitem__)
    total, first = sum(own.values()), ends[order[0]] - own[order[0]]
    # On a machine with one slot, groups walk one model each, one after another.
    groups = sum(
        ends[later] - own[later] - ends[earlier]
        for earlier, later in zip(order, order[1:])
        if sweep.found.manifests[earlier]["model"] != sweep.found.manifests[later]["model"]
    )
    parts = {
        "the stages' own seconds": total,
        "until the first stage begins": first - whole["began"],
        "between worker groups": groups,
        "loading, storing, rows": ends[order[-1]] - first - total - groups,
        "after the last stage": whole["began"] + wall - ends[order[-1]],
    }
    cells = sweep.plan.cells.values()
    naive = sum(own[s] for cell in cells for s in (*cell.stages[1:], *cell.evaluations))
    bound = WALL_RATIO * total + WALL_SECONDS
    print(f"{len(cells)} cells, {len(own)} distinct stages")
    print(f"wall time                        {wall:7.1f} s  target {bound:.1f}")
    for name, value in parts.items():
        print(f"  {name:<30} {value:7.1f} s  {value / wall:.0%}")
    print(f"the same command again           {again:7.1f} s  target {AGAIN_SECONDS:g}")
    print(f"naive loop, stages alone         {naive:7.1f} s  {naive / wall:.2f} x wall time")
    print(f"  start of a command, one cell   {start:7.1f} s  for each of {len(cells)} cells")
    naive += len(cells) * start
    print(f"  with these                     {naive:7.1f} s  {naive / wall:.2f} x wall time")
    print(f"                                            target {NAIVE_RATIO:g} x")


if __name__ == "__main__":
    main()
