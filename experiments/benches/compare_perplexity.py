"""Perplexity of the embedded model, pruned by ALPS and by its authors' own class.

    python experiments/benches/compare_perplexity.py CHECKOUT [--targets 0.5 0.7 0.9 2:4]

Both prune block after block on the outputs of their own pruned blocks, on 128 windows of 256 tokens
drawn with seed 0, without training. CHECKOUT is one of mazumder-lab/ALPS. It prints a table of the
perplexity on the test text, and the seconds of pruning on one thread. It takes a minute.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import torch
from compare_errors import targets_of
from original_alps import Solver, original_alps
from plain_loop import PlainLoop
from torch import Tensor

from core.config import FinetuneConfig, PruneConfig
from core.methods import METHODS, Method
from core.pruners import PRUNERS
from core.pruners.hessian import Hessian
from core.pruners.pruner import Pruned, Pruner, Solution, Statistic
from core.ranks import Ranks
from core.split.costs import Work
from core.targets import Target


@final
@dataclass(frozen=True)
class Original(Pruner):
    """Another solver in the place of a method, on one rank and from a dense model."""

    facts: ClassVar[Method] = METHODS["alps"]
    statistic: ClassVar[type[Statistic] | None] = Hessian

    solver: Solver

    def work(self, rows: Sequence[int], cols: int) -> Work:
        """Return no products: one rank plans nothing."""
        return Work(tuple(rows), cols, 0.0, selections=0)

    def prune_checked(
        self,
        weights: Sequence[Tensor],
        statistic: Statistic | None,
        targets: Sequence[Target],
        masks: Sequence[Tensor] | None,
        ranks: Ranks,
    ) -> Solution:
        """Solve for the weights; what is not zero survives."""
        assert isinstance(statistic, Hessian) and not masks
        solved = self.solver(weights, statistic, targets[0])
        return Solution([Pruned(weight, weight != 0) for weight in solved])


def main() -> None:
    """Prune by both at each target and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--targets", nargs="+", default="0.5 0.7 0.9 2:4".split())
    flags = parser.parse_args()
    torch.set_num_threads(1)
    loop, config = PlainLoop(FinetuneConfig()), PruneConfig()
    pruners = {
        "ours": PRUNERS["alps"](config),
        "the authors'": Original(config, original_alps(flags.checkout)),
    }
    print(f"| ALPS | {' | '.join(flags.targets)} | seconds |")
    print(f"|---|{'---:|' * (len(flags.targets) + 1)}")
    for name, pruner in pruners.items():
        found = []
        loop.seconds.clear()
        for target in targets_of(flags.targets):
            model = copy.deepcopy(loop.dense)
            loop.prune_by(pruner, model, target, {})
            found.append(f"{loop.perplexity(model, loop.test):.2f}")
        print(f"| {name} | {' | '.join(found)} | {loop.seconds['prune']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
