"""The official ALPS code's algorithm, written anew in float64: what our errors are compared with.

Meng, Behdin, Wang & Mazumder, arXiv 2406.07831, and the defaults of the authors' repository.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.targets import Target

DAMPING, FIRST_PENALTY, MOST_STEPS, STEPS_BETWEEN = 0.01, 0.1, 300, 3
LEAST_STEPS, SETTLED, CG_STEPS = 30, 0.0003, 10


def official_weights(weight: Tensor, hessian: Tensor, target: Target) -> Tensor:
    """Return the pruned weights [rows, cols] of one matrix whose inputs have second moments H."""
    hessian = hessian.double().clone()
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    units = hessian.diagonal().sqrt()
    hessian /= units[:, None] * units
    goal = weight.double() * units
    kept = round((1 - target.sparsity) * goal.numel())
    pull, values, vectors = goal @ hessian, *torch.linalg.eigh(hessian)
    penalty, changed_before = FIRST_PENALTY, False
    sparse, dual = project(goal, target), torch.zeros_like(goal)
    support = sparse != 0
    for step in range(1, MOST_STEPS + 1):
        inverse = (vectors / (values + penalty)) @ vectors.T
        dense = (pull - dual + penalty * sparse) @ inverse
        sparse = project(dense + dual / penalty, target)
        dual += penalty * (dense - sparse)
        if step % STEPS_BETWEEN:
            continue
        moved, support = int(((sparse != 0) != support).sum()), sparse != 0
        if moved == 0 and changed_before:
            break
        if moved / kept > 0.005 or (moved and changed_before):
            changed_before = True
            penalty *= 1.3 if moved / kept > 0.1 else 1.2 if moved / kept > 0.005 else 1.1
        else:
            penalty /= 5
            if moved:
                sparse, dual = project(goal, target), torch.zeros_like(goal)
        if step > LEAST_STEPS and moved / kept < SETTLED:
            break
    return descended(project(dense, target), pull, hessian) / units


def project(weight: Tensor, target: Target) -> Tensor:
    """Return the weights without the smallest, in the whole matrix or in each group of M."""
    structure = target.structure
    groups = weight.reshape(
        1 if structure is None else -1, -1 if structure is None else structure.group
    )
    pruned = round(target.sparsity * groups.shape[1])
    lowest = groups.abs().topk(pruned, 1, largest=False).indices
    return groups.scatter(1, lowest, 0.0).view_as(weight)


def descended(weight: Tensor, pull: Tensor, hessian: Tensor) -> Tensor:
    """Return the survivors after ten steps of conjugate gradients for `W H = pull`."""
    kept = (weight != 0).double()
    residual = (pull - weight @ hessian) * kept
    direction, square = residual, residual.square().sum(1, keepdim=True)
    for _ in range(CG_STEPS):
        product = direction @ hessian
        length = square / (direction * product).sum(1, keepdim=True).clamp_min(1e-30)
        weight = weight + length * direction
        residual = (residual - length * product) * kept
        before, square = square, residual.square().sum(1, keepdim=True)
        direction = residual + square / before.clamp_min(1e-30) * direction
    return weight
