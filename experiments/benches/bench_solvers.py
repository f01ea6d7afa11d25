"""Bench of the solvers beside the original SparseGPT class.

    python experiments/benches/bench_solvers.py --reference ~/sparsegpt
        [--llmcompressor venv/bin/python] [--model DIR --text FILE --held-out FILE]

The two sides take turns, so that other load meets both. Each figure is a median. With a model it
takes 21 minutes on two cores. On a CUDA device the OPT block shapes run there too.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import bench_model
import original_sparsegpt as original
import torch
from torch import Tensor

from core.pruners.hessian import Hessian, factorise
from core.pruners.sparsegpt import solve
from core.targets import Target

RUNS, SPARSITY = 5, 0.5
CPU = torch.device("cpu")
# (rows of each matrix, inputs) of the distinct inputs of one decoder block.
BLOCKS = {
    "opt-125m": [([768] * 3, 768), ([768], 768), ([3072], 768), ([768], 3072)],
    "opt-1.3b": [([2048] * 3, 2048), ([2048], 2048), ([8192], 2048), ([2048], 8192)],
    "opt-6.7b": [([4096] * 3, 4096), ([4096], 4096), ([16384], 4096), ([4096], 16384)],
    "llama-2-7b": [([4096] * 3, 4096), ([4096], 4096), ([11008] * 2, 4096), ([4096], 11008)],
    "llama-2-70b": [
        *(([8192, 1024, 1024], 8192), ([8192], 8192)),
        *(([28672] * 2, 8192), ([8192], 28672)),
    ],
}


def seconds(device: torch.device, *actions: Callable[[], Any], runs: int = RUNS) -> list[float]:
    """Run actions in turn, after one warm-up; return the median seconds of each."""
    taken: list[list[float]] = [[] for _ in actions]
    for run in range(runs + 1):
        for action, times in zip(actions, taken):
            synchronize(device)
            start = time.perf_counter()
            action()
            synchronize(device)
            if run:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in taken]


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def layer(rows: list[int], cols: int, device: torch.device) -> tuple[list[Tensor], Hessian]:
    """Return random matrices and the statistic of the correlated input that they share."""
    generator = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "device": device}
    inputs = torch.randn(2 * cols, cols // 2, **options)
    inputs = inputs @ torch.randn(cols // 2, cols, **options) / cols**0.5
    inputs += 0.3 * torch.randn(2 * cols, cols, **options)
    statistic = Hessian(cols, device)
    statistic.update(inputs.bfloat16() if device.type == "cuda" else inputs)
    return [0.02 * torch.randn(r, cols, **options) for r in rows], statistic


def matmul_rate(device: torch.device) -> float:
    """Return the floating-point operations per second of a float32 product."""
    a = torch.randn(2048, 2048, device=device)
    return 2 * 2048**3 / seconds(device, lambda: a @ a, runs=9)[0]


def run_ours(weights: list[Tensor], hessian: Tensor, into: list[Tensor]) -> None:
    """Factorise once and solve all matrices in one stack; `into` receives the new weights."""
    solved = solve(weights, factorise(hessian, 0.01), Target(SPARSITY), 128)
    into[:] = [matrix.weight for matrix in solved]


def bench_block(name: str, reference: type, device: torch.device) -> dict[str, float]:
    """Prune one decoder block, beside the original class, which goes matrix by matrix."""
    rate, ours, theirs, floor, worst = matmul_rate(device), 0.0, 0.0, 0.0, 0.0
    for rows, cols in BLOCKS[name]:
        weights, statistic = layer(rows, cols, device)
        hessian = statistic.matrix()
        mine, others = [], []
        a, b = seconds(
            device,
            partial(run_ours, weights, hessian, mine),
            partial(original.prune_matrices, reference, weights, hessian, SPARSITY, others),
        )
        ours, theirs = ours + a, theirs + b
        floor += (cols**3 / 3 + sum(rows) * cols**2) / rate
        for new, other, weight in zip(mine, others, weights, strict=True):
            errors = [float(((x - weight) @ hessian * (x - weight)).sum()) for x in (new, other)]
            worst = max(worst, errors[0] / errors[1])
    return {
        "seconds": ours,
        "original_seconds": theirs,
        "speedup": theirs / ours,
        "times_floor": ours / floor,
        "worst_error_ratio": worst,
    }


def bench_accumulation(device: torch.device, cols: int = 3072) -> dict[str, float]:
    """Time the accumulation of H beside the full product."""
    inputs, statistic = torch.randn(4096, cols, device=device), Hessian(cols, device)
    total = torch.zeros(cols, cols, device=device)
    ours, full = seconds(
        device, lambda: statistic.update(inputs), lambda: total.addmm_(inputs.T, inputs)
    )
    return {"seconds": ours, "full_seconds": full, "share": ours / full}


def bench_sparsities(device: torch.device) -> dict[str, float]:
    """Time nine sparsities of one layer (768 x 3072) with one factor, and with nine."""
    weights, statistic = layer([768], 3072, device)
    hessian, targets = statistic.matrix(), [Target(i / 10) for i in range(1, 10)]

    def shared() -> None:
        factor = factorise(hessian, 0.01)
        for target in targets:
            solve(weights, factor, target, 128)

    def separate() -> None:
        for target in targets:
            solve(weights, factorise(hessian, 0.01), target, 128)

    one, nine = seconds(device, shared, separate)
    return {"seconds": one, "separate_seconds": nine, "share": one / nine}


def main() -> None:
    """Run the benches, print a line for each and write `bench.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True, help="checkout of the original")
    parser.add_argument("--llmcompressor", help="interpreter that has llm-compressor")
    parser.add_argument("--model", type=Path, help="model directory for the end-to-end run")
    parser.add_argument("--text", type=Path, help="calibration text, one document a line")
    parser.add_argument("--held-out", type=Path, help="text for end-to-end perplexities")
    parser.add_argument("--blocks", nargs="+", default=["opt-125m", "opt-1.3b"], choices=BLOCKS)
    parser.add_argument("--model-runs", type=int, default=RUNS, help="end-to-end repetitions")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    options = parser.parse_args()
    reference = original.load_reference(options.reference)
    benches: dict[str, Callable[[], dict[str, float]]] = {}
    for name in options.blocks:
        benches[f"cpu {name}"] = partial(bench_block, name, reference, CPU)
    benches["cpu accumulate"] = partial(bench_accumulation, CPU)
    benches["cpu nine sparsities"] = partial(bench_sparsities, CPU)
    if options.llmcompressor:
        benches["cpu llm-compressor"] = partial(original.bench_llmcompressor, options.llmcompressor)
    if torch.cuda.is_available():
        cuda = torch.device("cuda")
        benches |= {f"cuda {name}": partial(bench_block, name, reference, cuda) for name in BLOCKS}
    if options.model and options.text:
        files = ("--model", str(options.model), "--text", str(options.text))
        benches["cpu ranks"] = partial(bench_model.in_process, "ranks", *files)
        benches["cpu opt-1.3b memory"] = partial(bench_model.in_process, "memory")
        args = (options.model, options.text, options.held_out, options.model_runs)
        benches["cpu model"] = partial(bench_model.bench_model, reference, *args)
    machine = {"processor": platform.processor(), "threads": torch.get_num_threads()}
    found: dict[str, Any] = {"machine": machine | {"torch": torch.__version__}, "rows": {}}
    # The file is written after each bench, so that a run that is stopped keeps its figures.
    for name, bench in benches.items():
        found["rows"][name] = row = bench()
        if name == "cpu llm-compressor" and "cpu opt-125m" in found["rows"]:
            row["ours_faster"] = row["seconds"] / found["rows"]["cpu opt-125m"]["seconds"]
        figures = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
        print(f"{name:20}", figures, flush=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
