"""A sweep on a cluster of no workers: they come, one is lost on the way, results, they go.

    python experiments/harnesses/try_autoscaling.py [--out-dir DIRECTORY]

Ray's own autoscaler runs with its fake provider, whose nodes are processes of this machine, in PID,
mount and network namespaces of their own. One worker node is killed in the middle, as a spot
instance is. Needs Linux, root and iproute2. Exit code 0: no workers before, some during, none
after, and every row is done.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[2]
INSIDE = "PRUNE_SWEEP_TRY_INSIDE"
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
    """Runs everything in namespaces of this process's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out-dir", type=Path, help="kept there; a temporary one otherwise")
    flags = parser.parse_args()
    if INSIDE not in os.environ:
        alone = ["unshare", "-mnp", "--fork", "--mount-proc", "--kill-child", sys.executable]
        return subprocess.run([*alone, *sys.argv], env={**os.environ, INSIDE: "1"}).returncode
    # An address to speak to that is not loopback's; nothing leads out of here.
    for command in (
        "ip link set lo up",
        "ip link add lan type bridge",
        f"ip address add {ADDRESS}/24 dev lan",
        "ip link set lan up",
        "mount -t tmpfs tmpfs /dev/shm",
    ):
        subprocess.run(command.split(), check=True)
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="autoscaling-") as folder:
        return play(Path(folder), flags.out_dir or Path(folder) / "out")


def cluster_config() -> dict:
    """At most two workers of two CPU cores, gone twelve seconds after the last work."""
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
    """Head, sweep, loss of a node, end; prints what was seen and when."""
    config = folder / "cluster.yaml"
    config.write_text(yaml.safe_dump(cluster_config()))
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
        "HOME": str(folder),
        "RAY_FAKE_CLUSTER": "1",
        # The second autoscaler reads a file for this provider that Ray's wheel leaves out.
        "RAY_enable_autoscaler_v2": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": f"{ADDRESS}:{PORT}",
    }
    head = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={PORT}"),
        *(f"--node-ip-address={ADDRESS}", "--num-cpus=0", f"--dashboard-port={DASHBOARD}"),
        *(f"--object-store-memory={STORE_BYTES}", f"--autoscaling-config={config}"),
        f"--temp-dir={folder / 'ray'}",
    ]
    subprocess.run(head, env=environment, check=True, stdout=subprocess.DEVNULL)
    start = time.monotonic()
    time.sleep(15)
    counts = [num_workers()]
    say(start, f"head is up; {counts[0]} workers")
    command = [sys.executable, str(ROOT / "experiments" / "sweep_opt.py"), *SWEEP]
    sweep = subprocess.Popen(
        [*command, "--out-dir", str(out)], env=environment, stdout=subprocess.PIPE, text=True
    )
    shown = threading.Thread(target=show, args=(start, sweep))
    shown.start()
    lost = False
    while sweep.poll() is None:
        time.sleep(1)
        watch(start, counts)
        if not lost and len(list((out / "rows").glob("*.json"))) >= 3:
            lost = True
            say(start, f"killed the node of raylet {lose_a_worker()}")
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
    """A line with the seconds since the head came up."""
    print(f"{time.monotonic() - start:6.0f} s  {text}", flush=True)


def show(start: float, sweep: subprocess.Popen) -> None:
    """The sweep's own lines with the time."""
    assert sweep.stdout is not None
    for line in sweep.stdout:
        say(start, f"| {line.rstrip()}")


def watch(start: float, counts: list[int]) -> None:
    """Notes a changed number of workers."""
    now = num_workers()
    if now != counts[-1]:
        say(start, f"workers {counts[-1]} -> {now}")
        counts.append(now)


def raylets() -> list[int]:
    """Process ids of all raylets, the head's first."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                name = (folder / "comm").read_text().strip()
            except OSError:
                continue
            if name == "raylet":
                found.append(int(folder.name))
    return sorted(found)


def num_workers() -> int:
    """Worker nodes that run."""
    return max(0, len(raylets()) - 1)


def lose_a_worker() -> int:
    """Kills a worker node without notice; its processes go with it."""
    pid = raylets()[-1]
    os.kill(pid, signal.SIGKILL)
    return pid


if __name__ == "__main__":
    sys.exit(main())
