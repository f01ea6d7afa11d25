"""One scenario of a test file, run here as a single rank and by two gloo processes as scripts.

`compare` is for the file's fixture, `join` for its `main`, which each of the two processes calls.
The scenario writes what it finds to `folder/ranks-WORLD/rank-N.pt`, for tests to compare.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, PretrainedConfig

WORLD = 2
Scenario = Callable[[Path, int], None]
"""Gets the folder, and the world size of the run that it resumes from."""


def join(rank: int, folder: Path, scenario: Scenario) -> None:
    """Runs the scenario as one of the two, after the single rank's."""
    torch.set_num_threads(1)
    address = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=WORLD)
    scenario(folder, 1)
    dist.destroy_process_group()


def compare(
    file: str, folder: Path, configs: dict[str, PretrainedConfig], scenario: Scenario
) -> Path:
    """Saves a random model of each configuration, runs the scenario alone, then `file` twice."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for family, config in configs.items():
            AutoModelForCausalLM.from_config(config).save_pretrained(folder / family)
    scenario(folder, 0)
    processes = [
        subprocess.Popen(
            [sys.executable, file, str(rank), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return folder


def found(folder: Path, world: int) -> list[dict[Any, Any]]:
    """Return what each rank of a run found."""
    files = [folder / f"ranks-{world}" / f"rank-{rank}.pt" for rank in range(world)]
    return [torch.load(file, weights_only=False) for file in files]
