"""One scenario of a test file, run here as a single rank and by several gloo processes.

`compare` is for the file's fixture; `found` returns what the scenario did, for tests to compare.
The processes are forked from one that has imported the libraries: imports take seconds.
"""

import multiprocessing
import os
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from core.ranks import Ranks

if TYPE_CHECKING:
    from transformers import PretrainedConfig

WORLD = 2
Scenario = Callable[[Ranks, Path], Any]
"""Gets a folder for files of this number of ranks; models of `compare` lie in the one above."""
IMPORTED = ["pytest", "transformers", "core.sequential", "core.training.finetune"]
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(IMPORTED)


def join(file: str, rank: int, world: int, folder: Path) -> None:
    """Run the scenario of a test file as one of several ranks."""
    output = os.open(output_of(folder, rank, world), os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    address = f"file://{folder / 'rendezvous'}-{world}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    run(runpy.run_path(file)["scenario"], folder)
    # A rank that leaves while another still talks to it can abort in gloo's own threads.
    dist.barrier()
    dist.destroy_process_group()


def run(scenario: Scenario, folder: Path) -> None:
    """Run a scenario in this process and save what it returns."""
    ranks = Ranks.current()
    out = folder / f"ranks-{ranks.size}"
    out.mkdir(exist_ok=True)
    torch.save(scenario(ranks, out), out / f"rank-{ranks.rank}.pt")


def earlier(ranks: Ranks, out: Path) -> Path:
    """Return the folder of the single rank's run; for itself, one that is not there."""
    return out.with_name("ranks-1" if ranks.size > 1 else "none")


def output_of(folder: Path, rank: int, world: int) -> Path:
    """Return the file with what a rank prints."""
    return folder / f"output-{world}-{rank}.txt"


def compare(
    file: str, folder: Path, configs: "dict[str, PretrainedConfig]", scenario: Scenario
) -> Path:
    """Save a random model of each configuration; run the scenario alone, then by two ranks."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        for family, config in configs.items():
            AutoModelForCausalLM.from_config(config).save_pretrained(folder / family)
    run(scenario, folder)
    start(file, folder, WORLD)
    return folder


def start(file: str, folder: Path, world: int) -> None:
    """Run the scenario of `file` as several gloo processes."""
    processes = [
        forked.Process(target=join, args=(file, rank, world, folder)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(240)
    finally:
        for process in processes:
            process.kill()
    said = [output_of(folder, rank, world).read_text() for rank in range(world)]
    assert [process.exitcode for process in processes] == [0] * world, "\n".join(said)


def found(folder: Path, world: int) -> list[dict[Any, Any]]:
    """Return what each rank of a run found."""
    files = [folder / f"ranks-{world}" / f"rank-{rank}.pt" for rank in range(world)]
    return [torch.load(file, weights_only=False) for file in files]
