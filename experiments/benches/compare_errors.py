"""Comparison of two methods by the layer error that they leave.

    python experiments/benches/compare_errors.py MODEL_DIR TEXT [--methods alps sparsegpt]
        [--targets 0.5 0.6 0.7 0.8 0.9 2:4] [--num-samples 32] [--seq-len 512] [--blocks 2 10]
        [--original-alps CHECKOUT]

Prints the first method's reconstruction error divided by the second's: the geometric mean and the
worst over all matrices, one line for each target, then the same on held-out windows. The last
column is the share of matrices on which the first method is no worse. Both methods get the same
weights and the same statistic of the dense model's activations, so that a ratio depends on the
methods alone. With a checkout of mazumder-lab/ALPS the second method is the authors' own class. A
model of 135 M parameters takes some minutes, and half an hour beside the authors' class.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from bench_model import MICRO_BATCH_TOKENS, load
from original_alps import Solver, original_alps
from torch import Tensor

from core.activations import Activations, Group, gather_statistics
from core.config import PruneConfig
from core.models.blocks import prunable_blocks
from core.models.tokenizers import load_tokenizer
from core.pruners import PRUNERS
from core.pruners.hessian import Hessian
from core.pruners.layer_error import quadratic
from core.ranks import Ranks
from core.targets import Target
from core.texts.sources import resolve_text
from core.texts.windows import calibration_windows

Ratios = dict[Target, list[tuple[float, float]]]
"""The first method's error over the second's on each matrix: on the statistic, and held out."""


@torch.no_grad()
def main() -> None:
    """Solve every matrix by both methods, block by block, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("text")
    parser.add_argument("--methods", nargs=2, default=["alps", "sparsegpt"], choices=PRUNERS)
    parser.add_argument("--targets", nargs="+", default="0.5 0.6 0.7 0.8 0.9 2:4".split())
    parser.add_argument("--num-samples", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--blocks", nargs="+", type=int, help="compare in these blocks only")
    parser.add_argument("--original-alps", type=Path, metavar="CHECKOUT")
    flags = parser.parse_args()
    targets = targets_of(flags.targets)
    solvers = {name: solver_of(name) for name in flags.methods}
    if flags.original_alps is not None:
        solvers = {flags.methods[0]: solvers[flags.methods[0]]}
        solvers["original ALPS"] = original_alps(flags.original_alps)
    ratios: Ratios = {target: [] for target in targets}
    seconds = {target: [0.0, 0.0] for target in targets}
    for index, groups in walked(flags):
        if flags.blocks is None or index in flags.blocks:
            for group, held_out in groups:
                compare(list(solvers.values()), group, held_out, ratios, seconds)
            print(f"block {index}", file=sys.stderr, flush=True)
    report(list(solvers), ratios, seconds)


def targets_of(told: Sequence[str]) -> list[Target]:
    """Return the targets of a flag: sparsities and N:M."""
    return [Target.structured(one) if ":" in one else Target(float(one)) for one in told]


def solver_of(name: str) -> Solver:
    """Return a solver that runs one of our methods with its defaults."""
    pruner = PRUNERS[name](PruneConfig())

    def solve(weights: Sequence[Tensor], statistic: Hessian, target: Target) -> list[Tensor]:
        return [one.weight for one in pruner.prune(weights, statistic, target, None).matrices]

    return solve


def walked(flags: argparse.Namespace):
    """Yield each block's index and its inputs, with a statistic and a held-out one."""
    model, ranks = load(flags.model), Ranks.current()
    text, tokenizer = resolve_text(flags.text, "calibration"), load_tokenizer(flags.model)
    micro_batch = max(1, MICRO_BATCH_TOKENS // flags.seq_len)
    both = []
    for seed in (0, 1):
        windows = calibration_windows(text, tokenizer, flags.num_samples, flags.seq_len, None, seed)
        both.append(Activations(model, windows.split(micro_batch), ranks))
    for block in prunable_blocks(model):
        if flags.blocks is not None and block.index > max(flags.blocks):
            return
        found = [gather_statistics(Hessian, block, each, ranks, advance=True) for each in both]
        yield block.index, list(zip(*found, strict=True))


def compare(
    solvers: Sequence[Solver],
    group: Group,
    held_out: Group,
    ratios: Ratios,
    seconds: dict[Target, list[float]],
) -> None:
    """Solve the matrices of one input by both methods; add to `ratios` and `seconds`."""
    weights = [one.read() for one in group.matrices]
    assert isinstance(group.statistic, Hessian) and isinstance(held_out.statistic, Hessian)
    statistics = group.statistic, held_out.statistic
    for target in ratios:
        errors = []
        for place, solver in enumerate(solvers):
            start = time.perf_counter()
            solved = solver(weights, group.statistic, target)
            seconds[target][place] += time.perf_counter() - start
            errors.append(
                [
                    [float(quadratic(each.products, old.float() - new)) for each in statistics]
                    for old, new in zip(weights, solved, strict=True)
                ]
            )
        for (ours, ours_held), (theirs, theirs_held) in zip(*errors, strict=True):
            if theirs and theirs_held:
                ratios[target].append((ours / theirs, ours_held / theirs_held))


def report(names: Sequence[str], ratios: Ratios, seconds: dict[Target, list[float]]) -> None:
    """Print one line for each target, and the seconds of both methods."""
    print(f"errors of {names[0]} divided by those of {names[1]}")
    columns = "target  matrices    mean   worst  held out   worst  no worse   seconds of each"
    print(columns)
    for target, found in ratios.items():
        same, held_out = zip(*found)
        means = [math.exp(sum(map(math.log, each)) / len(each)) for each in (same, held_out)]
        share = sum(ratio <= 1 for ratio in same) / len(same)
        taken = "  ".join(f"{each:7.1f}" for each in seconds[target])
        print(
            f"{target.label:<7} {len(same):>8} {means[0]:7.3f} {max(same):7.3f} "
            f"{means[1]:9.3f} {max(held_out):7.3f} {share:9.1%}  {taken}"
        )


if __name__ == "__main__":
    main()
