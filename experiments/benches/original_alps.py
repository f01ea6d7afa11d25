"""The other side of comparisons with ALPS: the authors' class, from a checkout of their repository.

The class is imported from a checkout of mazumder-lab/ALPS; none of its code is here.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from core.pruners.hessian import Hessian
from core.targets import Target

Solver = Callable[[Sequence[Tensor], Hessian, Target], list[Tensor]]
"""Returns the new weights of matrices that read one input."""


def original_alps(checkout: Path) -> Solver:
    """Return a solver that runs the authors' class with its defaults, matrix by matrix."""
    reference = load_reference(checkout)

    def solve(weights: Sequence[Tensor], statistic: Hessian, target: Target) -> list[Tensor]:
        hessian = statistic.matrix()
        return [prune_matrix(reference, weight, hessian, target) for weight in weights]

    return solve


def load_reference(checkout: Path) -> type:
    """Return the authors' class. It names its device in its source; here it may be a CPU."""
    source = (checkout / "alps.py").read_text(encoding="utf-8")
    if not torch.cuda.is_available():
        source = source.replace("cuda:0", "cpu")
        torch.cuda.synchronize = lambda *_: None
    module = types.ModuleType("original_alps_source")
    exec(compile(source, str(checkout / "alps.py"), "exec"), module.__dict__)
    return module.ALPS_prune


def prune_matrix(reference: type, weight: Tensor, hessian: Tensor, target: Target) -> Tensor:
    """Run the authors' class on one matrix; return the new weights."""
    linear = nn.Linear(weight.shape[1], len(weight), bias=False, device=weight.device)
    linear.weight.data = weight.float().clone()
    solver = reference(linear, 1, 1)
    solver.XtX = hessian.clone()
    structure = target.structure
    groups = (0, 0) if structure is None else (structure.survivors, structure.group)
    solver.ALPS_admm(target.sparsity, *groups)
    return linear.weight.data
