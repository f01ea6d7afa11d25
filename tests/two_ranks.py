"""One scenario of a test file, run here as a single rank and by two gloo processes as scripts.

`compare` is for the file's fixture, `join` for its `main`, which each of the two processes calls.
The scenario writes what it finds to `folder/ranks-WORLD/rank-N.pt`, for tests to compare.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from transformers import PretrainedConfig

WORLD = 2
Scenario = Callable[[Path, int], None]
"""Gets the folder, and the world size of the run that it resumes from."""


def join(rank: int, folder: Path, scenario: Scenario) -> None:
    """Runs the scenario as one of the two, after the single rank's."""
    torch.set_num_threads(1)
    address = f"file://{folder / 'rendezvous'}-{os.environ['TEST_WORLD_SIZE']}"
    world = int(os.environ["TEST_WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    scenario(folder, 1)
    dist.destroy_process_group()


def compare(
    file: str, folder: Path, configs: "dict[str, PretrainedConfig]", scenario: Scenario
) -> Path:
    """Saves a random model of each configuration, runs the scenario alone, then `file` twice."""
    # Ranks do not need it: the import takes seconds.
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        for family, config in configs.items():
            AutoModelForCausalLM.from_config(config).save_pretrained(folder / family)
    scenario(folder, 0)
    start(file, folder, WORLD)
    return folder


def start(file: str, folder: Path, world: int) -> None:
    """Runs the scenario of `file` as several gloo processes."""
    processes = [
        subprocess.Popen(
            [sys.executable, file, str(rank), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "TEST_WORLD_SIZE": str(world)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world, "\n".join(outputs)


def found(folder: Path, world: int) -> list[dict[Any, Any]]:
    """Return what each rank of a run found."""
    files = [folder / f"ranks-{world}" / f"rank-{rank}.pt" for rank in range(world)]
    return [torch.load(file, weights_only=False) for file in files]
