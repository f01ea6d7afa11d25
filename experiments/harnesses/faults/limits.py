"""Real sweeps that lack room or memory, whose numbers are not finite, or whose files are damaged.

Each fault disturbs a sweep in a store of its own and returns the number of kills, which is none.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import time
from pathlib import Path

from sweep_process import Sweep, rows_of

from faults.sweeps import WORKER
from orchestrator.store.store import Store


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
