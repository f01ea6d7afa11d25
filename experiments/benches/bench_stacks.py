"""Seconds of SparseGPT over the experts of one layer: one by one, and all at once.

    python experiments/benches/bench_stacks.py [--experts 32] [--rows 512] [--cols 256]

Random weights and inputs, on a CPU with one thread, or on a CUDA device if there is one. The two
ways take turns; each figure is the median of three. It also says if all masks are equal.
`tests/count_launches.py "experts 0.5"` counts launches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from core.config import PruneConfig
from core.pruners import make_pruner
from core.pruners.hessian import Hessian
from core.pruners.pruner import Ask, Solution
from core.targets import Target

RUNS = 3
TARGETS = (Target(0.5), Target.structured("2:4"))


def main() -> None:
    """Print a line for each target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--rows", type=int, nargs="+", default=[512], help="of each matrix")
    parser.add_argument("--cols", type=int, default=256)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pruner = make_pruner("sparsegpt", PruneConfig())
    for target in TARGETS:
        asks = [ask(flags.rows, flags.cols, target, e, device) for e in range(flags.experts)]

        def alone(asks: list[Ask] = asks) -> list[Solution | None]:
            return [pruner.prune(a.weights, a.statistic, a.targets) for a in asks]

        def together(asks: list[Ask] = asks) -> list[Solution | None]:
            return pruner.prune_stack(asks)

        equal = all(map(equal_masks, alone(), together()))
        one, other = seconds(device, alone, together)
        print(
            f"{target.label:>4}  {flags.experts} experts {flags.rows} x {flags.cols}: "
            f"one by one {one:.3f} s, at once {other:.3f} s, masks equal: {equal}",
            flush=True,
        )


def ask(rows: list[int], cols: int, target: Target, seed: int, device: torch.device) -> Ask:
    """Return a random expert; its inputs depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(each, cols, generator=generator).to(device) for each in rows]
    mixing = torch.randn(cols, cols, generator=generator) / cols**0.5 + torch.eye(cols)
    statistic = Hessian(cols, device)
    statistic.update((torch.randn(4 * cols, cols, generator=generator) @ mixing).to(device))
    return Ask(weights, statistic, [target] * len(rows), None)


def equal_masks(one: Solution | None, other: Solution | None) -> bool:
    """Return True if two solutions have the same masks."""
    assert one is not None and other is not None
    pairs = zip(one.matrices, other.matrices, strict=True)
    return all(torch.equal(a.mask, b.mask) for a, b in pairs)


def seconds(device: torch.device, *actions: Callable[[], object]) -> list[float]:
    """Run actions in turn; return the median seconds of each."""
    taken: list[list[float]] = [[] for _ in actions]
    for _ in range(RUNS):
        for action, times in zip(actions, taken, strict=True):
            start = time.perf_counter()
            action()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


if __name__ == "__main__":
    main()
