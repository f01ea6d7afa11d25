"""The other side of the solver benches: the original SparseGPT class, and llm-compressor's.

The class is imported from a checkout of IST-DASLab/sparsegpt; none of its code is here.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.models.blocks import prunable_blocks
from core.models.calls import block_inputs, run_block
from core.targets import Target

LLMCOMPRESSOR = """
import sys, time, torch
from llmcompressor.modifiers.pruning.sparsegpt.sgpt_sparsify import sparsify_weight
rows, cols = map(int, sys.argv[1:])
times = []
for _ in range(5):
    torch.manual_seed(0)
    layer = torch.nn.Linear(cols, rows, bias=False)
    x = torch.randn(2 * cols, cols)
    hessians = {layer: x.T @ x}
    start = time.perf_counter()
    sparsify_weight(layer, hessians, 0.5, 0, 0, 128, 0.01, False)
    times.append(time.perf_counter() - start)
print(sorted(times)[2])
"""


def load_reference(path: Path) -> type:
    """Return the original class. It calls `torch.cuda.synchronize` even without a GPU."""
    sys.path.insert(0, str(path))
    if not torch.cuda.is_available():
        torch.cuda.synchronize = lambda *_: None
    from sparsegpt import SparseGPT  # pyright: ignore[reportMissingImports]

    return SparseGPT


def quiet(action: Callable[..., Any], *args: Any) -> None:
    """Run an action without its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        action(*args)


def prune_matrices(
    reference: type, weights: list[Tensor], hessian: Tensor, sparsity: float, into: list[Tensor]
) -> None:
    """Run the original class matrix by matrix; `into` receives the new weights."""
    into[:] = [prune_matrix(reference, weight, hessian, Target(sparsity)) for weight in weights]


def prune_matrix(reference: type, weight: Tensor, hessian: Tensor, target: Target) -> Tensor:
    """Run the original class on one matrix; return the new weights."""
    linear = nn.Linear(weight.shape[1], len(weight), bias=False, device=weight.device)
    linear.weight.data = weight.clone()
    solver = reference(linear)
    solver.H = hessian.clone()
    structure = target.structure
    # The original counts the pruned weights of a group, not its survivors.
    pruned = () if structure is None else (structure.group - structure.survivors, structure.group)
    quiet(solver.fasterprune, target.sparsity, *pruned)
    return linear.weight.data


@torch.no_grad()
def prune_model(reference: type, model: Any, windows: Tensor, sparsity: float) -> None:
    """Run the original's sequential loop: window by window, with a statistic for each linear."""
    batches = [block_inputs(model, window) for window in windows.split(1)]
    hidden, arguments = [h for h, _ in batches], [kwargs for _, kwargs in batches]
    for block in prunable_blocks(model):
        named = {name: model.get_submodule(name) for name in block.matrices}
        solvers = {name: reference(linear) for name, linear in named.items()}
        hooks = [
            linear.register_forward_hook(
                lambda _, inputs, output, solver=solvers[name]: solver.add_batch(inputs[0], output)
            )
            for name, linear in named.items()
        ]
        for h, kwargs in zip(hidden, arguments):
            run_block(block.module, h, kwargs[block.index])
        for hook in hooks:
            hook.remove()
        for solver in solvers.values():
            quiet(solver.fasterprune, sparsity)
        hidden = [
            run_block(block.module, h, kwargs[block.index]) for h, kwargs in zip(hidden, arguments)
        ]


def bench_llmcompressor(python: str) -> dict[str, float]:
    """Time llm-compressor's solver on each matrix of an OPT-125M block, one at a time."""
    shapes = [(768, 768)] * 4 + [(3072, 768), (768, 3072)]
    command = [python, "-c", LLMCOMPRESSOR]
    return {
        "seconds": sum(
            float(subprocess.check_output([*command, str(rows), str(cols)]).split()[-1])
            for rows, cols in shapes
        )
    }
