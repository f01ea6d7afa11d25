"""Comparison of two methods by the layer error that they leave.

    python experiments/benches/compare_errors.py MODEL_DIR TEXT [--methods alps sparsegpt]
        [--targets 0.5 0.6 0.7 0.8 0.9 2:4] [--num-samples 32] [--seq-len 512]

Prints the first method's reconstruction error divided by the second's: the geometric mean and the
worst over all matrices, one line for each target. The last column is the share of matrices on which
the first method is no worse. Both methods get the same weights and the same statistic of the dense
model's activations, so that a ratio depends on the methods alone. A model of 135 M parameters takes
some minutes.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from bench_model import MICRO_BATCH_TOKENS, load

from core.activations import Activations, gather_statistics
from core.config import PruneConfig
from core.models.blocks import prunable_blocks
from core.models.loading import load_tokenizer
from core.parallel import Ranks
from core.pruners import PRUNERS
from core.pruners.hessian import Hessian
from core.pruners.layer_error import quadratic
from core.targets import Target
from core.texts.sources import resolve_text
from core.texts.windows import calibration_windows


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
    flags = parser.parse_args()
    targets = [Target.structured(t) if ":" in t else Target(float(t)) for t in flags.targets]
    ranks, ratios = Ranks.current(), {target: [] for target in targets}
    seconds = dict.fromkeys(flags.methods, 0.0)
    text, tokenizer = resolve_text(flags.text, "calibration"), load_tokenizer(flags.model)
    windows = calibration_windows(text, tokenizer, flags.num_samples, flags.seq_len, None, seed=0)
    model, pruners = load(flags.model), [PRUNERS[name](PruneConfig()) for name in flags.methods]
    micro_batch = max(1, MICRO_BATCH_TOKENS // flags.seq_len)
    activations = Activations(model, windows.split(micro_batch), ranks)
    for block in prunable_blocks(model):
        groups = gather_statistics(Hessian, block, activations, ranks, advance=True)
        for group in groups:
            assert isinstance(group.statistic, Hessian)
            weights = [one.read() for one in group.matrices]
            for target, found in ratios.items():
                errors: list[list[torch.Tensor]] = []
                for pruner in pruners:
                    start = time.perf_counter()
                    solved = pruner.prune(weights, group.statistic, target, None)
                    seconds[pruner.facts.name] += time.perf_counter() - start
                    errors.append(
                        [
                            quadratic(group.statistic.products, weight.float() - new.weight)
                            for weight, new in zip(weights, solved.matrices, strict=True)
                        ]
                    )
                found += [
                    float(ours / theirs) for ours, theirs in zip(*errors, strict=True) if theirs
                ]
        print(f"block {block.index}", file=sys.stderr, flush=True)
    first, second = flags.methods
    print(f"{first} / {second}: {seconds[first]:.0f} s / {seconds[second]:.0f} s")
    print("target  matrices    mean   worst  no worse")
    for name, found in zip(flags.targets, ratios.values(), strict=True):
        mean = math.exp(sum(map(math.log, found)) / len(found))
        share = sum(ratio <= 1 for ratio in found) / len(found)
        print(f"{name:<7} {len(found):>8} {mean:7.3f} {max(found):7.3f} {share:9.1%}")


if __name__ == "__main__":
    main()
