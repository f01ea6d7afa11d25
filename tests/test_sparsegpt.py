"""SparseGPT against optimal brain surgery done the long way: dense inverses, float64."""

import functools
import itertools

import pytest
import torch
from torch import Tensor

from core.config import PruneConfig
from core.pruners import PRUNERS, panels
from core.pruners.hessian import Hessian, factorise
from core.pruners.sparsegpt import solve
from core.targets import Target

FRAC = 0.01


pytestmark = pytest.mark.usefixtures("one_thread", "each_way")


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@functools.cache
def correlated_hessian(cols: int, seed: int = 1, dead: tuple[int, ...] = ()) -> Tensor:
    inputs = random(3 * cols, cols // 2, seed=seed) @ random(cols // 2, cols, seed=seed + 1)
    inputs += 0.5 * random(3 * cols, cols, seed=seed + 2)
    inputs[:, list(dead)] = 0.0
    return 2 / len(inputs) * inputs.T @ inputs


def damp(hessian: Tensor) -> Tensor:
    """The damped matrix; an input that was always zero gets a diagonal of one."""
    damped = hessian + FRAC * hessian.diagonal().mean() * torch.eye(len(hessian)).double()
    dead = hessian.diagonal() == 0
    damped[dead, dead] = 1.0
    return damped


@functools.cache
def tail_inverses(hessian: Tensor) -> list[Tensor]:
    """The inverse of what is left of the damped matrix before each column."""
    damped = damp(hessian)
    return [torch.linalg.inv(damped[j:, j:]) for j in range(len(damped))]


def dense_surgeon(
    weight: Tensor,
    hessian: Tensor,
    block_size: int,
    sparsity: float | None = None,
    structure: tuple[int, int] | None = None,
    earlier: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """SparseGPT's algorithm with an inverse of its own for each column, by the OBS formulas.

    Column by column: with F the columns not yet done and `G = inv(H[F, F])`, pruning `w_j` costs
    `w_j^2 / G[0, 0]` and moves the others of F by `-w_j / G[0, 0] * G[:, 0]`. A mask is chosen
    for `block_size` columns (a group of M) on the weights as they are when its turn comes.
    """
    W, inverses = weight.clone(), tail_inverses(hessian)
    rows, cols = W.shape
    dead = hessian.diagonal() == 0
    gone = torch.zeros(rows, cols, dtype=torch.bool) if earlier is None else ~earlier
    W[gone] = 0.0
    cost = torch.stack([G[0, 0] for G in inverses])
    mask = torch.ones(rows, cols, dtype=torch.bool)
    width = structure[1] if structure else block_size
    for j in range(cols):
        if j % width == 0:
            span = slice(j, min(j + width, cols))
            scores = W[:, span] ** 2 / cost[span]
            scores[:, dead[span]] = -1.0
            scores[gone[:, span]] = -torch.inf
            if structure:
                lowest = scores.topk(structure[1] - structure[0], dim=1, largest=False).indices
                mask[:, span] = mask[:, span].scatter(1, lowest, False)
            else:
                assert sparsity is not None
                quota = round(sparsity * rows * span.stop) - int((~mask).sum())
                order = scores.flatten().argsort()
                block = torch.ones(scores.numel(), dtype=torch.bool)
                block[order[:quota]] = False
                mask[:, span] = block.view(scores.shape)
        pruned, G = ~mask[:, j], inverses[j]
        W[pruned, j:] -= torch.outer(W[pruned, j] / G[0, 0], G[:, 0])
        W[pruned, j] = 0.0
    return W, mask


def solved(weight: Tensor, hessian: Tensor, target: Target, block_size: int, earlier=None):
    masks = None if earlier is None else [earlier]
    return solve([weight], factorise(hessian, FRAC), target, block_size, masks)[0]


def assert_same(pruned, expected: tuple[Tensor, Tensor]) -> None:
    """Equal masks; float64 weights to 1e-9, as the damped matrices have conditions below 1e5."""
    weight, mask = expected
    assert torch.equal(pruned.mask, mask)
    torch.testing.assert_close(pruned.weight, weight, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sparsity", [0.1, 1 / 3, 0.5, 0.95])
@pytest.mark.parametrize("block_size", [1, 7, 16, 128])
def test_unstructured_equals_the_dense_surgeon(sparsity, block_size):
    weight, hessian = random(11, 52), correlated_hessian(52)
    expected = dense_surgeon(weight, hessian, block_size, sparsity)
    assert_same(solved(weight, hessian, Target(sparsity), block_size), expected)


@pytest.mark.parametrize("structure", [(2, 4), (1, 4), (3, 4), (1, 2), (4, 8), (5, 26)])
@pytest.mark.parametrize("block_size", [8, 30])
def test_groups_equal_the_dense_surgeon(structure, block_size):
    cols = 52 if 52 % structure[1] == 0 else 56
    weight, hessian = random(11, cols), correlated_hessian(cols)
    expected = dense_surgeon(weight, hessian, block_size, structure=structure)
    target = Target.structured(f"{structure[0]}:{structure[1]}")
    assert_same(solved(weight, hessian, target, block_size), expected)


def test_the_default_block_size_equals_the_dense_surgeon_over_several_blocks():
    weight, hessian = random(5, 200), correlated_hessian(200)
    expected = dense_surgeon(weight, hessian, 128, 0.5)
    assert_same(solved(weight, hessian, Target(0.5), 128), expected)


def test_dead_inputs_equal_the_dense_surgeon():
    weight, hessian = random(11, 48), correlated_hessian(48, dead=(0, 5, 17, 18, 47))
    expected = dense_surgeon(weight, hessian, 16, 0.4)
    assert_same(solved(weight, hessian, Target(0.4), 16), expected)


def test_a_second_round_equals_the_dense_surgeon():
    weight, hessian = random(11, 48), correlated_hessian(48)
    first = solved(weight, hessian, Target(0.3), 16)
    expected = dense_surgeon(first.weight, hessian, 16, 0.6, earlier=first.mask)
    assert_same(solved(first.weight, hessian, Target(0.6), 16, first.mask), expected)


def test_a_second_round_of_groups_equals_the_dense_surgeon():
    weight, hessian = random(11, 48), correlated_hessian(48)
    first = solved(weight, hessian, Target.structured("3:4"), 16)
    expected = dense_surgeon(first.weight, hessian, 16, structure=(1, 4), earlier=first.mask)
    second = solved(first.weight, hessian, Target.structured("1:4"), 16, first.mask)
    assert_same(second, expected)


def test_stacked_matrices_equal_the_dense_surgeon_each():
    weights = [random(rows, 40, seed=rows) * rows for rows in (9, 3, 17)]
    hessian = correlated_hessian(40)
    matrices = solve(weights, factorise(hessian, FRAC), Target(0.5), 16)
    for pruned, weight in zip(matrices, weights, strict=True):
        assert_same(pruned, dense_surgeon(weight, hessian, 16, 0.5))


def test_float32_agrees_with_the_dense_surgeon():
    # float32: at most 2 of 10,240 masks flip by near ties, weights agree to 1e-3 in norm.
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(1000, 80, generator=generator) @ torch.randn(80, 80, generator=generator)
    weight = torch.randn(128, 80, generator=generator)
    statistic = Hessian(80, torch.device("cpu"))
    statistic.update(inputs)
    pruner = PRUNERS["sparsegpt"](PruneConfig(dampening_frac=FRAC, block_size=32))
    pruned = pruner.prune([weight], statistic, Target(0.5)).matrices[0]
    hessian = 2 / 1000 * inputs.double().T @ inputs.double()
    expected, mask = dense_surgeon(weight.double(), hessian, 32, 0.5)
    assert int((pruned.mask != mask).sum()) <= 2
    agree = (pruned.mask == mask).all(1)
    error = (pruned.weight.double() - expected)[agree].norm() / expected[agree].norm()
    assert error < 1e-3


def least_squares(weight: Tensor, hessian: Tensor, support: Tensor) -> Tensor:
    """The row that minimises `(v - w) H (v - w)T` among those with zeros outside `support`."""
    rest = ~support
    new = torch.zeros_like(weight)
    moved = torch.linalg.solve(hessian[support][:, support], hessian[support][:, rest])
    new[support] = weight[support] + moved @ weight[rest]
    return new


def output_error(new: Tensor, old: Tensor, hessian: Tensor) -> float:
    return float((new - old) @ hessian @ (new - old))


def test_survivors_behind_all_pruned_columns_are_the_least_squares_solution():
    # The first six of twelve inputs are cheap, so one mask block prunes exactly these.
    weight, hessian = random(4, 12), correlated_hessian(12)
    weight[:, :6] *= 1e-3
    pruned = solved(weight, hessian, Target(0.5), 12)
    support = torch.arange(12) >= 6
    assert torch.equal(pruned.mask, support.expand(4, -1))
    for new, old in zip(pruned.weight, weight, strict=True):
        expected = least_squares(old, damp(hessian), support)
        torch.testing.assert_close(new, expected, rtol=1e-10, atol=1e-10)


def test_each_survivor_answers_only_columns_before_it():
    # By hand: with the pruned columns fixed, survivors right of column j settle as if j..end
    # were free. Here column 3 alone is pruned, so columns before it keep their value.
    weight, hessian = random(1, 8), correlated_hessian(8)
    weight[0, 3] = 1e-6
    pruned = solved(weight, hessian, Target(1 / 8), 8)
    support = torch.arange(8) != 3
    assert torch.equal(pruned.mask[0], support)
    assert torch.equal(pruned.weight[0, :3], weight[0, :3])
    tail = least_squares(weight[0, 3:], damp(hessian)[3:, 3:], support[3:])
    torch.testing.assert_close(pruned.weight[0, 3:], tail, rtol=1e-10, atol=1e-12)


def test_one_column_blocks_prune_the_rows_that_lose_least():
    # The first column prunes 3 of 6 rows: of all 20 choices the one with the least error, each
    # row's other weights refitted.
    weight, hessian = random(6, 5), correlated_hessian(5)
    pruned = solved(weight, hessian, Target(0.5), 1)
    support = torch.tensor([False, True, True, True, True])
    loss = [
        output_error(least_squares(row, damp(hessian), support), row, damp(hessian))
        for row in weight
    ]
    best = min(itertools.combinations(range(6), 3), key=lambda rows: sum(loss[r] for r in rows))
    assert tuple((~pruned.mask[:, 0]).nonzero().flatten().tolist()) == best


def test_uncorrelated_inputs_make_it_magnitude_times_norm():
    # H diagonal: nothing can be compensated, and the score is |w| sqrt(H_jj).
    weight, diagonal = random(6, 16), torch.linspace(0.5, 4, 16).double()
    pruned = solved(weight, torch.diag(diagonal), Target(0.5), 16)
    # Damping adds the same to each diagonal entry.
    scores = weight.abs() * (diagonal + FRAC * diagonal.mean()).sqrt()
    assert scores[~pruned.mask].max() < scores[pruned.mask].min()
    assert torch.equal(pruned.weight, weight * pruned.mask)


def test_two_weights_by_hand():
    # H = [[2, 1], [1, 2]]: column 0 goes; column 1 takes w0 * H01 / H11 = 0.5 w0 (H undamped).
    factor = factorise(torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double(), 1e-15)
    weight = torch.tensor([[1.0, 3.0]]).double()
    pruned = solve([weight], factor, Target(0.5), 128)[0]
    torch.testing.assert_close(pruned.weight, torch.tensor([[0.0, 3.5]]).double())


def test_many_rows_are_solved_in_chunks(monkeypatch):
    weight, hessian = random(11, 52), correlated_hessian(52)
    monkeypatch.setattr(panels, "CHUNK", 3 * 32**2)
    assert_same(solved(weight, hessian, Target(0.5), 52), dense_surgeon(weight, hessian, 52, 0.5))
