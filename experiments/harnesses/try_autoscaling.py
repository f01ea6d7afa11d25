"""Does a sweep work on a cluster whose workers come, get lost and go?

    python experiments/harnesses/try_autoscaling.py [--out-dir DIRECTORY]

Ray's own autoscaler runs with its fake provider, in namespaces of its own. The nodes are processes
of this machine. The cluster begins without workers. One worker node is killed in the middle, like a
spot instance. Exit code 0 means: no workers before, some during, none after, and every row is done.
Takes about 5 minutes. Needs Linux, root and iproute2.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import yaml
from namespaces import environment, make_network, run, run_inside

ROOT = Path(__file__).resolve().parents[2]
ADDRESS, PORT, DASHBOARD = "192.0.2.1", 6391, 8291
STORE_BYTES = 200_000_000
SWEEP = (
    "--methods magnitude sparsegpt --sparsities 0.5 0.7 --regimes oneshot finetune "
    "--finetune.tokens 8192 --cpus-per-worker 2 --checkpoint-seconds 5"
).split()
EMPTY = (
    "initialization_commands setup_commands head_setup_commands worker_setup_commands "
    "head_start_ray_commands worker_start_ray_commands cluster_synced_files rsync_exclude "
    "rsync_filter"
).split()


def main() -> int:
    """Run everything in namespaces of this process's own; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out-dir", type=Path, help="is kept; by default a temporary one")
    flags = parser.parse_args()
    if (code := run_inside()) is not None:
        return code
    make_network(ADDRESS)
    run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="autoscaling-") as folder:
        return play(Path(folder), flags.out_dir or Path(folder) / "out")


def cluster_config() -> dict:
    """Return a cluster of at most two workers of two CPU cores, gone twelve seconds after work."""
    return {
        "cluster_name": "fake",
        "max_workers": 2,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"{ADDRESS}:{PORT}",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "spot": {
                "resources": {"CPU": 2, "object_store_memory": STORE_BYTES},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            },
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.2,
        **{name: [] for name in EMPTY},
    }


def play(folder: Path, out: Path) -> int:
    """Start the head and the sweep, lose a node, wait for the end; print the events with times."""
    config = folder / "cluster.yaml"
    config.write_text(yaml.safe_dump(cluster_config()))
    known = environment(
        str(folder),
        RAY_FAKE_CLUSTER="1",
        # The second autoscaler reads a file for this provider that Ray's wheel leaves out.
        RAY_enable_autoscaler_v2="0",
        RAY_AUTH_MODE="disabled",
        RAY_ADDRESS=f"{ADDRESS}:{PORT}",
    )
    head = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={PORT}"),
        *(f"--node-ip-address={ADDRESS}", "--num-cpus=0", f"--dashboard-port={DASHBOARD}"),
        *(f"--object-store-memory={STORE_BYTES}", f"--autoscaling-config={config}"),
        f"--temp-dir={folder / 'ray'}",
    ]
    subprocess.run(head, env=known, check=True, stdout=subprocess.DEVNULL)
    start = time.monotonic()
    time.sleep(15)
    counts = [num_workers()]
    say(start, f"head is up; {counts[0]} workers")
    command = [sys.executable, str(ROOT / "experiments" / "sweep_opt.py"), *SWEEP]
    sweep = subprocess.Popen(
        [*command, "--out-dir", str(out)], env=known, stdout=subprocess.PIPE, text=True
    )
    shown = threading.Thread(target=show, args=(start, sweep))
    shown.start()
    lost = False
    while sweep.poll() is None:
        time.sleep(1)
        watch(start, counts)
        if not lost and len(list((out / "rows").glob("*.json"))) >= 3:
            lost = True
            # The newest raylet is a worker's, and its processes go with it.
            raylets()[-1].kill()
            say(start, "killed a worker node")
    shown.join()
    say(start, f"the sweep's exit code is {sweep.returncode}")
    while num_workers() and time.monotonic() - start < 500:
        time.sleep(1)
        watch(start, counts)
    watch(start, counts)
    rows = pq.read_table(out / "results.parquet").to_pylist()
    done = sum(row["status"] == "done" for row in rows)
    say(start, f"{done} of {len(rows)} rows done; a node was lost: {lost}")
    right = counts[0] == 0 and max(counts) >= 1 and counts[-1] == 0 and lost
    return 0 if right and sweep.returncode == 0 and done == len(rows) == 10 else 1


def say(start: float, text: str) -> None:
    """Print a line with the seconds since the head came up."""
    print(f"{time.monotonic() - start:6.0f} s  {text}", flush=True)


def show(start: float, sweep: subprocess.Popen) -> None:
    """Print the sweep's own lines with the time."""
    assert sweep.stdout is not None
    for line in sweep.stdout:
        say(start, f"| {line.rstrip()}")


def watch(start: float, counts: list[int]) -> None:
    """Add the number of workers to `counts` if it has changed."""
    now = num_workers()
    if now != counts[-1]:
        say(start, f"workers {counts[-1]} -> {now}")
        counts.append(now)


def raylets() -> list[psutil.Process]:
    """Return all raylets, the head's first."""
    found = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "raylet"]
    return sorted(found, key=lambda one: one.pid)


def num_workers() -> int:
    """Return the number of worker nodes that run."""
    return max(0, len(raylets()) - 1)


if __name__ == "__main__":
    sys.exit(main())
