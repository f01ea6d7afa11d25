"""Seconds of commands beside those of the for-loop that a user would write, in one run.

    python experiments/benches/measure_orchestration.py              # default sweep, half an hour
    python experiments/benches/measure_orchestration.py --repeats 1 --sparsities 0.5

Times in turn: `sweep_opt.py` into an empty directory, the same work as a plain loop in one process
(`plain_loop.py`), the command with one trial of all cores, the loop as two processes of one core,
the finished command again, dry runs, `--help` and a wrong flag. Prints medians, and where the
command's seconds went. `--all` goes on with the benches of floors, of 30,000 cells and of slots.
Every timing is noted in `--work`, so that the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.preparation import prepare

HERE = Path(__file__).parent
SCRIPT, LOOP = HERE.parent / "sweep_opt.py", HERE / "plain_loop.py"
STAGES_RATIO, EXTRA_SECONDS, FIRST_SECONDS = 1.05, 15.0, 15.0
"""Targets: the command takes at most this many times its stages' own seconds, shared by the trials
that run at once, and so many seconds more; its first stage begins by then."""
QUICK = {
    "all done": 4.0,
    "dry run, all done": 5.0,
    "dry run, new": None,
    "--help": 1.5,
    "a wrong flag": 1.5,
}
"""Commands that run no stage, and their targets in seconds."""
OTHERS = ("measure_floors", "measure_scale", "measure_store", "simulate_scheduling")
"""Benches of stages, plan, store and slots."""


class Timings:
    """Seconds of commands, noted in a directory."""

    def __init__(self, work: Path, flags: list[str]) -> None:
        self.work, self.flags = work, flags
        work.mkdir(parents=True, exist_ok=True)

    def timed(self, name: str, *commands: list[str], codes: tuple[int, ...] = (0,)) -> dict:
        """Run commands at once unless they are noted; return when they began, seconds, last lines.

        Several commands have one thread each.
        """
        note = self.work / f"{name}.json"
        if not note.exists():
            threads = {"OMP_NUM_THREADS": "1"} if len(commands) > 1 else {}
            began, start = time.time(), time.perf_counter()
            running = [
                subprocess.Popen(
                    [sys.executable, *command],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=os.environ | threads,
                )
                for command in commands
            ]
            said = [process.communicate() for process in running]
            seconds = time.perf_counter() - start
            assert all(process.returncode in codes for process in running), str(said)
            last = [line for out, _ in said for line in out.strip().splitlines()[-1:]]
            note.write_text(json.dumps({"began": began, "seconds": seconds, "last": last}))
        return json.loads(note.read_text())

    def sweep(self, turn: int) -> dict[str, float]:
        """Return where the seconds of a whole sweep went."""
        out = self.work / f"sweep-{turn}"
        whole = self.timed(
            f"sweep-{turn}", [str(SCRIPT), *self.flags, "--out-dir", str(out / "out")]
        )
        sweep = prepare(parse(SweepConfig(), [*self.flags, "--out-dir", str(out / "out")], ""))
        metrics = [m["metrics"] for m in sweep.found.manifests.values()]
        own = sum(m["seconds"] for m in metrics)
        spans = [(m["finished_at"] - m["seconds"], m["finished_at"]) for m in metrics]
        first = min(start for start, _ in spans) - whole["began"]
        last = max(end for _, end in spans) - whole["began"]
        trials = at_once(spans)
        return {
            "the command": whole["seconds"],
            "  trials at once": trials,
            "  until the first stage begins": first,
            "  its stages' own seconds": own,
            "  between stages, and idle at the end": last - first - own / trials,
            "  after the last stage": whole["seconds"] - last,
        }

    def loop(self, turn: int) -> dict[str, float]:
        """Return the seconds of the plain loop, by kind of work."""
        done = self.timed(f"loop-{turn}", [str(LOOP), *loop_flags(self.flags)])
        kinds = json.loads(done["last"][0])
        rest = done["seconds"] - sum(kinds.values())
        named = {f"  {kind}": seconds for kind, seconds in kinds.items()}
        return {"the loop": done["seconds"], **named, "  imports and the rest": rest}

    def quick(self, name: str, turn: int) -> float:
        """Return the seconds of a command that runs no stage."""
        finished = ["--out-dir", str(self.work / f"sweep-{turn}" / "out")]
        new = ["--out-dir", str(self.work / "new"), "--dry-run"]
        arguments = {
            "all done": [*self.flags, *finished],
            "dry run, all done": [*self.flags, *finished, "--dry-run"],
            "dry run, new": [*self.flags, *new],
            "--help": ["--help"],
            "a wrong flag": ["--no-such-flag"],
        }[name]
        note = f"{name.replace(' ', '-').replace(',', '')}-{turn}"
        return self.timed(note, [str(SCRIPT), *arguments], codes=(0, 2))["seconds"]

    def one_trial(self, turn: int) -> float:
        """Return the seconds of the sweep with one trial that has all cores."""
        out = ["--out-dir", str(self.work / f"trial-{turn}" / "out"), "--max-concurrent-trials"]
        return self.timed(f"trial-{turn}", [str(SCRIPT), *self.flags, *out, "1"])["seconds"]

    def two_loops(self, turn: int) -> float:
        """Return the seconds of the loop as two processes: SparseGPT and dense, and the others."""
        one = [str(LOOP), *loop_flags(self.flags), "--methods", "sparsegpt"]
        two = [str(LOOP), *loop_flags(self.flags), "--methods", "magnitude", "wanda", "--no-dense"]
        return self.timed(f"loops-{turn}", one, two)["seconds"]


def loop_flags(flags: list[str]) -> list[str]:
    """Return the flags that the loop knows too; refuse others."""
    known = {"--methods", "--sparsities", "--finetune.objective"}
    unknown = [flag for flag in flags if flag.startswith("--") and flag not in known]
    assert not unknown, f"the loop has no {unknown}"
    return flags


def at_once(spans: list[tuple[float, float]]) -> int:
    """Return how many stages ran at the same time, at most."""
    ends = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    return max(itertools.accumulate(step for _, step in ends))


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each part."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def report(sweep: dict[str, float], loop: dict[str, float]) -> None:
    """Print the parts of both, and the targets."""
    for name, seconds in (sweep | loop).items():
        print(f"{name:<42}{seconds:8.1f}")
    own = sweep["  its stages' own seconds"] / sweep["  trials at once"]
    bound, first = STAGES_RATIO * own + EXTRA_SECONDS, sweep["  until the first stage begins"]
    print(f"first stage                    {first:8.1f} s, target {FIRST_SECONDS:g}")
    print(f"the command                    {sweep['the command']:8.1f} s, target {bound:.1f}")
    ratio = sweep["the command"] / loop["the loop"]
    print(f"the command / the loop         {ratio:8.2f},   target 1")


def main() -> None:
    """Run everything in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", help="a directory for notes and stores; a new one by default")
    parser.add_argument("--all", action="store_true", help="run the other benches too")
    given, flags = parser.parse_known_args()
    timings = Timings(Path(given.work or tempfile.mkdtemp(prefix="cost-")), flags)
    turns = range(given.repeats)
    sweeps, loops = [], []
    for turn in turns:
        sweeps.append(timings.sweep(turn))
        loops.append(timings.loop(turn))
    report(medians(sweeps), medians(loops))
    if "--methods" not in flags:
        print(f"one trial of all cores         {timings.one_trial(0):8.1f} s")
        print(f"the loop as two processes      {timings.two_loops(0):8.1f} s")
    for name, target in QUICK.items():
        seconds = statistics.median(timings.quick(name, turn) for turn in turns)
        told = "" if target is None else f", target {target:g}"
        print(f"{name:<31}{seconds:8.1f} s{told}", flush=True)
    for name in OTHERS if given.all else ():
        print(f"\n{name}\n", flush=True)
        subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=True)


if __name__ == "__main__":
    main()
