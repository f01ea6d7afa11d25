"""A layer of real size in float32, inputs frozen, against dense float64 references.

`test_sparsegpt.py` checks the algorithm in float64 on small cases; here float32, several mask
blocks, and the reconstruction error of both.
"""

import pytest
import torch
from torch import Tensor

from core.config import PruneConfig
from core.pruners import PRUNERS
from core.targets import Target

ROWS, COLS, TOKENS, BLOCK, FRAC = 192, 384, 1200, 128, 0.01


def layer() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(TOKENS, COLS // 2, generator=generator)
    inputs = inputs @ torch.randn(COLS // 2, COLS, generator=generator) / 14
    inputs += 0.3 * torch.randn(TOKENS, COLS, generator=generator)
    return 0.02 * torch.randn(ROWS, COLS, generator=generator), inputs


def pruned_by(method: str, weight: Tensor, inputs: Tensor, target: Target):
    pruner = PRUNERS[method](PruneConfig(dampening_frac=FRAC, block_size=BLOCK))
    assert pruner.statistic is not None
    statistic = pruner.statistic(COLS, torch.device("cpu"))
    statistic.update(inputs)
    return pruner.prune([weight], statistic, target).matrices[0]


def surgeon(weight: Tensor, inputs: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Optimal brain surgery column by column; the inverse loses a row and a column each time."""
    W, X = weight.double(), inputs.double()
    H = 2 / TOKENS * X.T @ X
    H.diagonal().add_(FRAC * H.diagonal().mean())
    costs, moves, inverse = [], [], torch.linalg.inv(H)
    for _ in range(COLS):
        costs.append(inverse[0, 0])
        moves.append(inverse[0])
        inverse = inverse[1:, 1:] - torch.outer(inverse[1:, 0], inverse[0, 1:]) / inverse[0, 0]
    cost, mask = torch.stack(costs), torch.ones_like(W, dtype=torch.bool)
    width = 4 if target.mask_structure else BLOCK
    for j in range(COLS):
        if j % width == 0:
            scores = W[:, j : j + width] ** 2 / cost[j : j + width]
            if target.mask_structure is None:
                quota = round(target.sparsity * ROWS * (j + width)) - int((~mask).sum())
                threshold = scores.flatten().sort().values[quota - 1]
                mask[:, j : j + width] = scores > threshold
            else:
                gone = scores.argsort(1)[:, :2]
                mask[:, j : j + width] = mask[:, j : j + width].scatter(1, gone, False)
        lost = torch.where(mask[:, j], 0.0, W[:, j])
        W[:, j:] -= torch.outer(lost / cost[j], moves[j])
        W[:, j] *= mask[:, j]
    return W, mask


@pytest.mark.parametrize("target", [Target(0.5), Target(0.8), Target.structured("2:4")], ids=str)
def test_sparsegpt_agrees_with_the_dense_surgeon(target):
    weight, inputs = layer()
    pruned = pruned_by("sparsegpt", weight, inputs, target)
    expected, mask = surgeon(weight, inputs, target)
    # Ties: scores that float32 cannot tell apart; each flips at most a pair.
    same = (pruned.mask == mask).all(1)
    assert int((pruned.mask != mask).sum()) <= 4
    difference = (pruned.weight.double() - expected)[same].norm() / expected[same].norm()
    assert difference < 1e-4
    errors = [
        float((inputs.double() @ (new.double() - weight.double()).T).square().sum())
        for new in (pruned.weight, expected)
    ]
    assert errors[0] <= 1.001 * errors[1]


@pytest.mark.parametrize("target", [Target(0.5), Target(0.8), Target.structured("2:4")], ids=str)
def test_wanda_agrees_with_a_float64_reference(target):
    weight, inputs = layer()
    pruned = pruned_by("wanda", weight, inputs, target)
    scores = weight.double().abs() * inputs.double().norm(dim=0)
    group = 4 if target.mask_structure else COLS
    count = round(target.sparsity * group)
    order = scores.view(-1, group).argsort(1)[:, :count]
    mask = torch.ones(ROWS * COLS // group, group, dtype=torch.bool).scatter(1, order, False)
    assert int((pruned.mask != mask.view(ROWS, COLS)).sum()) <= 2
    assert torch.equal(pruned.weight, weight * pruned.mask)
