"""Bench of solves that ranks share: seconds of two processes beside one, and the cost model.

    python experiments/benches/bench_split.py [--runs 5] [--model-only]

Two gloo processes with one thread each prune a block together, and the first of them prunes it
alone, in turn. Each figure is a median: seconds of the clock, then the most CPU seconds of a
process, which other load on the machine disturbs less. Then the cost model gives the speed-up of
2, 4 and 8 ranks at the shapes of a block of LLaMA-70B.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from core.activations import Group
from core.config import PruneConfig
from core.models.matrices import Matrix
from core.pruners import make_pruner
from core.pruners.hessian import Hessian
from core.ranks import ALONE, Ranks
from core.solving import Problem, Solved, solve_block
from core.split.costs import GPU, GPU_NODES, Machine, Work
from core.split.plan import block_seconds, make_plan, plan_seconds
from core.targets import Target

# (rows of each matrix, inputs) by input.
Shapes = list[tuple[tuple[int, ...], int]]
MEASURED: dict[str, tuple[str, Shapes]] = {
    "a block of LLaMA-70B, an eighth as wide": (
        "sparsegpt",
        [((1024, 128, 128), 1024), ((1024,), 1024), ((3584, 3584), 1024), ((1024,), 3584)],
    ),
    "2048 x 4096": ("sparsegpt", [((2048,), 4096)]),
    "512 x 2048": ("alps", [((512,), 2048)]),
}
LLAMA_70B: Shapes = [
    ((8192, 1024, 1024), 8192),
    ((8192,), 8192),
    ((28672, 28672), 8192),
    ((8192,), 28672),
]
CARDS = {"A100": 12e12, "H100": 40e12}
LINKS = {"NVLink": GPU, "100 Gbit/s": GPU_NODES}
TOKENS = 128 * 2048


# Measured ----------------------------------------------------------------------------------------


def groups_of(shapes: Shapes, share: float) -> list[Group]:
    """Return random matrices, and a share of the statistics of random, correlated inputs."""
    torch.manual_seed(0)
    groups = []
    for index, (rows, cols) in enumerate(shapes):
        statistic = Hessian(cols, ALONE.device)
        inputs = torch.randn(2 * cols, cols)
        inputs += inputs[:, :64] @ torch.randn(64, cols) / 8
        statistic.update(inputs)
        statistic.products *= share
        statistic.num_tokens *= share
        linears = [nn.Linear(cols, one, bias=False) for one in rows]
        matrices = [Matrix(f"{index}.{i}", 0, linear) for i, linear in enumerate(linears)]
        groups.append(Group(matrices, statistic))
    return groups


def timed(problem: Problem, groups: list[Group], ranks: Ranks) -> tuple[float, float, Solved]:
    """Return wall seconds of a block's solves, the most CPU seconds of a rank, and the result."""
    # Sums change the statistics.
    groups = copy.deepcopy(groups)
    ranks.barrier()
    start, busy = time.perf_counter(), time.process_time()
    solved = solve_block(problem, groups, ranks)
    busy = time.process_time() - busy
    ranks.barrier()
    return time.perf_counter() - start, max(ranks.gather(busy)), solved


@torch.no_grad()
def measure(runs: int, rank: int, folder: Path) -> None:
    """Print the median seconds of each case, on the first of two ranks."""
    torch.set_num_threads(1)
    address = f"file://{folder / 'rendezvous'}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    ranks = Ranks.current()
    for case, (method, shapes) in MEASURED.items():
        whole, halves = groups_of(shapes, 1.0), groups_of(shapes, 0.5)
        names = [one.name for group in whole for one in group.matrices]
        pruner = make_pruner(method, PruneConfig())
        problem = Problem(pruner, dict.fromkeys(names, Target(0.5)), {})
        taken: list[tuple[float, ...]] = []
        for run in range(runs + 1):
            ranks.barrier()
            one = timed(problem, whole, ALONE) if ranks.rank == 0 else None
            both = timed(problem, halves, ranks)
            if one is not None and run:
                taken.append((*one[:2], *both[:2]))
                found = one[2], both[2]
        if ranks.rank == 0:
            wall, cpu, wall_shared, cpu_shared = (statistics.median(t) for t in zip(*taken))
            same = [
                (a.mask == found[1].pruned[name].mask).float().mean().item()
                for name, a in found[0].pruned.items()
            ]
            worse = max(found[1].errors[n] / e for n, e in found[0].errors.items() if e) - 1
            line = (
                f"{method:<10}{case:<42}{wall:>8.2f}{wall_shared:>8.2f}{wall / wall_shared:>7.2f}"
            )
            line += f"{cpu:>8.2f}{cpu_shared:>8.2f}{cpu / cpu_shared:>7.2f}"
            print(f"{line}{100 * min(same):>9.3f}{100 * worse:>+9.4f}", flush=True)
    dist.destroy_process_group()


def start_ranks(runs: int) -> None:
    """Run this script as two ranks."""
    heads = "".join(f"{'one':>8}{what:>8}{'ratio':>7}" for what in ("two", "two CPU"))
    print(f"{'':<52}{heads}{'masks %':>9}{'error %':>9}")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--runs", str(runs), "--folder", folder, "--rank"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        ranks = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(2)]
        for rank in ranks:
            rank.wait()


# The cost model ----------------------------------------------------------------------------------


def works_of(method: str) -> list[Work]:
    """Return the solves of a block of LLaMA-70B."""
    pruner = make_pruner(method, PruneConfig())
    return [pruner.work(rows, cols) for rows, cols in LLAMA_70B]


def whole_block(works: list[Work], size: int, machine: Machine) -> float:
    """Return the seconds of a block with its two forwards and its statistics, 128 x 2048 tokens.

    Forwards run in bf16 at eight times the rate of float32 products.
    """
    weights = sum(sum(work.rows) * work.cols for work in works)
    operations = TOKENS * (sum(work.cols**2 for work in works) + 2 * 2 * weights / 8)
    return operations / size / machine.operations + block_seconds(works, size, machine, 2)


def model() -> None:
    """Print seconds of one rank, and how many times as fast several are."""
    sizes = (2, 4, 8)
    heads = [
        f"{what} {size}" for what in ("solves", "+ calls", "+ sums", "block") for size in sizes
    ]
    print(f"\n{'':<32}{'seconds':>8}" + "".join(f"{head:>10}" for head in heads))
    for method in ("sparsegpt", "alps"):
        works = works_of(method)
        for card, rate in CARDS.items():
            for link, speeds in LINKS.items():
                machine = replace(speeds, operations=rate)
                quiet = replace(machine, column=0.0, corner=0.0)
                row = []
                for part, speed in zip(PARTS, (quiet, machine, machine, machine), strict=True):
                    one = part(works, 1, speed)
                    row += [one / part(works, size, speed) for size in sizes]
                seconds = block_seconds(works, 1, machine, 2)
                line = f"{method:<10}{card:<6}{link:<16}{seconds:>8.2f}"
                print(line + "".join(f"{one:>10.2f}" for one in row))


def solves(works: list[Work], size: int, machine: Machine) -> float:
    """Return the seconds of the solves and of what ranks send each other during them."""
    return plan_seconds(make_plan(works, size, machine), works, machine)


def sums(works: list[Work], size: int, machine: Machine) -> float:
    """Return the seconds of the solves with sums of statistics before and results after them."""
    return block_seconds(works, size, machine, 2)


PARTS = (solves, solves, sums, whole_block)


def main() -> None:
    """Run both parts."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs of each case")
    parser.add_argument("--model-only", action="store_true", help="measure nothing")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        measure(arguments.runs, arguments.rank, arguments.folder)
        return
    if not arguments.model_only:
        start_ranks(arguments.runs)
    model()


if __name__ == "__main__":
    main()
