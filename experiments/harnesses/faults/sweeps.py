"""Real sweeps whose processes are killed, stopped or interrupted.

Each fault disturbs a sweep in a store of its own and returns the number of kills. The harness then
runs the same command to its end.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from sweep_process import Sweep, gone, send

WORKER, TRIAL = "ray::RayTrainWorker", "ray::ImplicitFunc"


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
        said = Sweep(out, *flags, RAY_ADDRESS=cluster.address).end(2)
        assert "--cpus-per-worker 2: no node has 2 CPU cores; the most are 1" in said, said
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


def two_sweeps(out: Path, source: random.Random, kills: int) -> int:
    """Run the same command twice at the same time on one store."""
    first = Sweep(out)
    time.sleep(source.uniform(0.0, 5.0))
    Sweep(out).end()
    first.end()
    return 0


def stuck(out: Path, source: random.Random, kills: int) -> int:
    """Stop a worker: after --timeout-seconds the sweep gives it up and starts another."""
    sweep = Sweep(out, "--timeout-seconds", "20")
    sweep.wait_for(WORKER)
    time.sleep(source.uniform(2.0, 6.0))
    return send(sweep.wait_for(WORKER), signal.SIGSTOP) * (sweep.end() != "")
