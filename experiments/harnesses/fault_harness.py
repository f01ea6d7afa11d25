"""Do rows survive kills, full disks and damage?

    python experiments/harnesses/fault_harness.py  # everything, some 35 minutes
    python experiments/harnesses/fault_harness.py --only driver worker --seed 1 --work DIR

Each fault disturbs a small sweep in a store of its own. Then the same command runs to its end. The
rows must be those of an undisturbed run: equal cells, none lost or doubled, perplexities equal to
the last bit. `disk` mounts a tmpfs of a few MB. If that is not allowed, it limits the size of a
worker's files instead, and says so.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sweep_process import Sweep, gone, send

from orchestrator.results.parquet import read_rows
from orchestrator.store.store import Store

COMPARED = (
    *("model", "method", "regime", "sparsity", "round", "status", "perplexity", "nll"),
    *("perplexity_before_finetune", "dense_perplexity", "measured_sparsity", "num_finetune_tokens"),
)
WORKER, TRIAL = "ray::RayTrainWorker", "ray::ImplicitFunc"


def rows_of(out: Path) -> dict[tuple, tuple]:
    """Return the compared columns of each row of the grid; no cell may be there twice."""
    rows = [row for row in read_rows(str(out / "results.parquet")) if row["in_current_grid"]]
    found = {(row["cell_id"], row["eval_text"]): tuple(map(row.get, COMPARED)) for row in rows}
    assert len(found) == len(rows), "a cell is there twice"
    return found


def check_files(out: Path) -> None:
    """Read and hash every stored file."""
    store = Store(str(out))
    for stage, manifest in store.stages.manifests().items():
        assert store.stages.at(stage).damage(manifest, deep=True) is None


# Faults. Each returns the number of kills. `main` then runs the same command to its end.


def kill_processes(title: str, out: Path, source: random.Random, kills: int) -> int:
    """Kill workers or trial actors at random moments of one run."""
    sweep, done = Sweep(out), 0
    while done < kills and sweep.wait_for(title):
        time.sleep(source.uniform(0.0, 8.0))
        done += send(sweep.wait_for(title))
    sweep.end(0, 1)
    return done


def kill_driver(out: Path, source: random.Random, kills: int) -> int:
    """Kill the command, check that Ray's processes end too, and move file times by days."""
    done = 0
    for _ in range(kills):
        sweep = Sweep(out)
        time.sleep(source.uniform(6.0, 20.0))
        family = sweep.family()
        if sweep.process.poll() is None:
            sweep.process.kill()
            done += 1
        sweep.process.wait()
        gone(family)
        for file in out.rglob("*"):
            moment = time.time() + source.uniform(-2, 2) * 86_400
            os.utime(file, (moment, moment))
    return done


def interrupt(number: int, whole_group: bool, out: Path, source: random.Random, kills: int) -> int:
    """Send SIGTERM, or Ctrl-C to the whole group as a terminal does; the end comes within 15 s."""
    for i in range(kills):
        sweep = Sweep(out)
        time.sleep(source.uniform(3.0, 8.0 + 6.0 * i))
        family, start = sweep.family(), time.monotonic()
        (os.killpg if whole_group else os.kill)(sweep.process.pid, number)
        said, seconds = sweep.end(128 + number), time.monotonic() - start
        assert seconds < 15 and "run the same command again" in said, (seconds, said)
        gone(family)
        print(f"    ended after {seconds:.1f} s", flush=True)
    return kills


def kill_node(out: Path, source: random.Random, kills: int) -> int:
    """Ask for workers that are too large; then kill the raylet of a second node while both work."""
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 2**27}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": True})
    done = 0
    try:
        node = cluster.add_node(**size)
        flags = ("--cpus-per-worker", "2", "--timeout-seconds", "10")
        said = Sweep(out, *flags, RAY_ADDRESS=cluster.address).end(1)
        assert "no room for 1 workers of 2 CPU cores within 10 s" in said, said
        sweep = Sweep(out, RAY_ADDRESS=cluster.address)
        while done < kills and sweep.process.poll() is None:
            time.sleep(source.uniform(8.0, 20.0))
            if sweep.process.poll() is None:
                cluster.remove_node(node, allow_graceful=False)
                node = cluster.add_node(**size)
                done += 1
        sweep.end(0, 1)
    finally:
        cluster.shutdown()
    return done


def fill_disk(out: Path, source: random.Random, kills: int) -> int:
    """Give the stages too little room: the sweep says so, and goes on once there is more."""
    mounted = out.with_name("disk-mounted")
    mounted.mkdir()
    size = f"size={source.randrange(24, 60)}m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", mounted]
    if subprocess.run(mount, capture_output=True).returncode:
        print("    mounting is not allowed here: limiting the size of a worker's files instead")
        sweep = Sweep(out)
        worker = sweep.wait_for(WORKER)
        assert worker is not None
        worker.rlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        assert "no space left" in sweep.end(1)
        return 0
    try:
        said = Sweep(mounted).end(1)
        assert "no space left" in said and "Traceback" not in said, said
        subprocess.run(["mount", "-o", "remount,size=1g", mounted], check=True)
        Sweep(mounted).end()
        shutil.copytree(mounted, out)
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)
    return 0


def damage(out: Path, source: random.Random, kills: int) -> int:
    """Cut a file, change a byte, empty a manifest: each is set aside, said, computed again."""
    Sweep(out).end()
    stages = sorted(
        s for s, manifest in Store(str(out)).stages.manifests().items() if manifest["files"]
    )
    cut, flipped, bare = (out / "stages" / stage for stage in source.sample(stages, 3))
    weights = next(flipped.glob("*/model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-100] ^= 1
    weights.write_bytes(data)
    os.truncate(next(cut.glob("*/model.safetensors")), 1000)
    os.truncate(bare / "manifest.json", 0)
    said = Sweep(out).end()
    assert said.count("set aside") == 3, said
    return 0


def two_sweeps(out: Path, source: random.Random, kills: int) -> int:
    """Run the same command twice at the same time on one store."""
    first = Sweep(out)
    time.sleep(source.uniform(0.0, 5.0))
    Sweep(out).end()
    first.end()
    return 0


def not_finite(out: Path, source: random.Random, kills: int) -> int:
    """Make losses that are not finite: they fail their cells and no others."""
    said = Sweep(out, "--finetune.lr", "1e30").end(1)
    states = {row[2:4]: row[5] for row in rows_of(out).values() if row[1] == "sparsegpt"}
    assert "--finetune.lr" in said and states["finetune", 0.7] == "failed"
    assert states["iterative", 0.5] == "failed" and states["iterative", 0.7] == "not_run"
    return 0


def out_of_memory(out: Path, source: random.Random, kills: int) -> int:
    """Leave a worker little memory: a cell fails and says what it needs, then it gets it.

    A round in one batch takes 200 MB in one piece, more than any memory that was freed before.
    """
    flags = ("--finetune.batch-tokens", "16384", "--micro-batch-tokens", "16384")
    sweep = Sweep(out, *flags, "--max-concurrent-trials", "1")
    while not Store(str(out)).stages.ids():
        time.sleep(0.05)
    worker = sweep.wait_for(WORKER)
    assert worker is not None
    most = 2**27 + worker.memory_info().vms
    worker.rlimit(resource.RLIMIT_AS, (most, most))
    said = sweep.end(1)
    assert "GiB a worker" in said, said
    Sweep(out, *flags, "--retry-failed").end()
    return 0


def stuck(out: Path, source: random.Random, kills: int) -> int:
    """Stop a worker: after --timeout-seconds the sweep gives it up and starts another."""
    sweep = Sweep(out, "--timeout-seconds", "20")
    sweep.wait_for(WORKER)
    time.sleep(source.uniform(2.0, 6.0))
    return send(sweep.wait_for(WORKER), signal.SIGSTOP) * (sweep.end() != "")


FAULTS: dict[str, tuple[Callable[[Path, random.Random, int], int], int]] = {
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


def main() -> None:
    """Run the faults and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", help="a directory; a temporary one by default")
    flags = parser.parse_args()
    work = Path(flags.work or tempfile.mkdtemp(prefix="faults-"))
    (work / "home").mkdir(parents=True, exist_ok=True)
    # A home of its own, because Ray keeps a token there.
    os.environ |= {"HOME": str(work / "home"), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    os.environ.pop("RAY_ADDRESS", None)
    if not (work / "undisturbed" / "results.parquet").exists():
        Sweep(work / "undisturbed").end()
    expected, kills = rows_of(work / "undisturbed"), 0
    print(f"{len(expected)} cells a sweep; stores in {work}", flush=True)
    for name in flags.only:
        fault, count = FAULTS[name]
        start = time.monotonic()
        kills += (done := fault(work / name, random.Random(f"{flags.seed} {name}"), count))
        Sweep(work / name).end()
        assert rows_of(work / name) == expected, f"{name}: rows differ"
        check_files(work / name)
        seconds = time.monotonic() - start
        print(f"{name:<8} {done} kills, {len(expected)} cells equal, {seconds:.0f} s", flush=True)
    print(f"{kills} kills; no cell lost, doubled or different")


if __name__ == "__main__":
    main()
