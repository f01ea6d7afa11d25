"""Part: seconds of solves at the shapes of known models, beside a loop over columns.

Weights and solves are float32; on a GPU the inputs are bf16. A block is solved as a sweep does it,
its statistics given. The loop is the original class if a checkout is given, else `column_loop.py`,
and goes matrix by matrix. It runs once: after the smallest shape everything is warm.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import column_loop
import original_sparsegpt as original
import torch
from bench_solvers import BLOCKS, layer, synchronize
from torch import Tensor

from core.config import PruneConfig
from core.pruners import make_pruner
from core.pruners.hessian import Hessian
from core.targets import Target
from gpu_check.findings import Finding
from gpu_check.sizes import Place

METHODS = {
    "sparsegpt": ("sparsegpt", Target(0.5)),
    "2:4": ("sparsegpt", Target.structured("2:4")),
    "alps": ("alps", Target(0.5)),
}
WIDEST_ALPS = 22016
"""ALPS leaves out wider inputs and more rows than these: its products take half a minute there."""
MOST_ERROR = 1.001
"""Largest error allowed, as a share of the loop's: SparseGPT solves the same problem."""


def check(shape: str, method: str, place: Place) -> Finding:
    """Time the solves of one block and of the loop; compare their errors, matrix by matrix."""
    name, target = METHODS[method]
    pruner, device = make_pruner(name, PruneConfig()), torch.device(place.device)
    warm_up(method, place)
    ours, loop, worst, left_out = 0.0, 0.0, 0.0, 0
    for rows, cols in shrunk(shape, place):
        if name == "alps" and max(cols, sum(rows)) * place.sizes.shrink > WIDEST_ALPS:
            left_out += len(rows)
            continue
        weights, statistic = inputs_of(tuple(rows), cols, place)
        run = partial(pruner.prune, weights, statistic, target)
        seconds, solution = fastest(run, device, 1 if name == "alps" else 2)
        ours += seconds
        theirs, others = loop_of(tuple(rows), cols, target, place)
        loop += theirs
        errors = errors_of([one.weight for one in solution.matrices], weights, statistic)
        worst = max([worst, *(a / b for a, b in zip(errors, others, strict=True))])
    figures = {"seconds": ours, "loop_seconds": loop, "speedup": loop / ours, "error_ratio": worst}
    text = f"{ours:.3g} s, loop {loop:.3g} s: {loop / ours:.1f} x, error {worst:.3f} of its"
    if left_out:
        text += f" ({left_out} widest matrices left out)"
    finding = Finding(text, {**figures, "matrices_left_out": left_out})
    finding.require(worst <= MOST_ERROR, f"error above {MOST_ERROR} of the loop's")
    return finding


def shrunk(shape: str, place: Place) -> list[tuple[list[int], int]]:
    """Return (rows of each matrix, inputs) of a block's distinct inputs, divided in a rehearsal."""
    by = place.sizes.shrink
    return [([count // by for count in rows], cols // by) for rows, cols in BLOCKS[shape]]


@functools.lru_cache(maxsize=5)
def inputs_of(rows: tuple[int, ...], cols: int, place: Place) -> tuple[list[Tensor], Hessian]:
    """Return random weights and their statistic; those of one block are kept."""
    return layer(list(rows), cols, torch.device(place.device))


@functools.lru_cache(maxsize=8)
def loop_of(
    rows: tuple[int, ...], cols: int, target: Target, place: Place
) -> tuple[float, list[float]]:
    """Return the seconds of the loop and the error of each matrix."""
    weights, statistic = inputs_of(rows, cols, place)
    hessian, prune = statistic.matrix(), column_loop.prune
    if place.reference is not None:
        prune = partial(original.prune_matrix, original.load_reference(place.reference))
    run: Callable[[], list[Tensor]] = lambda: [prune(w, hessian, target) for w in weights]  # noqa: E731
    seconds, found = fastest(run, torch.device(place.device), 1)
    return seconds, errors_of(found, weights, statistic)


def errors_of(found: list[Tensor], weights: list[Tensor], statistic: Hessian) -> list[float]:
    """Return `tr(D H DT)` of each matrix, D = new minus old weights."""
    hessian = statistic.matrix()
    changes = [new - old for new, old in zip(found, weights, strict=True)]
    return [float(((change @ hessian) * change).sum()) for change in changes]


def fastest(run: Callable[[], Any], device: torch.device, runs: int) -> tuple[float, Any]:
    """Return the least seconds of some runs, and the result of the last."""
    taken, result = [], None
    for _ in range(runs):
        synchronize(device)
        start = time.perf_counter()
        result = run()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken), result


@functools.cache
def warm_up(method: str, place: Place) -> None:
    """Run each side once on a small layer: libraries load and kernels compile."""
    name, target = METHODS[method]
    weights, statistic = inputs_of((256,), 256, place)
    make_pruner(name, PruneConfig()).prune(weights, statistic, target)
    loop_of((256,), 256, target, place)


CASES = {
    f"{shape} {method}": partial(check, shape, method) for shape in BLOCKS for method in METHODS
}
