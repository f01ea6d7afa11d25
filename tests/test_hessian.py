"""Second moments of inputs, and the triangular factor that the solvers work with."""

import pytest
import torch
from torch import Tensor

from core.pruners.hessian import (
    ACCUMULATION_BLOCK,
    Hessian,
    InputNorms,
    factorise,
)
from core.pruners.pruner import PruningError
from core.split.factor import FACTOR_BLOCK, inverse_triangle

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def random_inputs(tokens: int, cols: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, cols, generator=generator)
    return inputs + inputs.roll(1, dims=1)


def second_moment(inputs: Tensor) -> Tensor:
    """`2/n sum(x xT)` token by token, in float64."""
    total = torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64)
    for x in inputs.double():
        total.addr_(x, x)
    return 2 * total / len(inputs)


def hessian_of(*batches: Tensor) -> Hessian:
    statistic = Hessian(batches[0].shape[1], CPU)
    for batch in batches:
        statistic.update(batch)
    return statistic


@pytest.mark.parametrize("cols", [5, ACCUMULATION_BLOCK + 77])
def test_the_matrix_is_the_mean_outer_product(cols):
    # float32 sums of 60 products: 1e-5 of the largest entry.
    inputs, expected = random_inputs(60, cols), second_moment(random_inputs(60, cols))
    matrix = hessian_of(inputs[:17], inputs[17:]).matrix()
    tolerance = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(matrix.double(), expected, rtol=0, atol=tolerance)


def test_the_matrix_is_symmetric_to_the_bit():
    matrix = hessian_of(random_inputs(33, ACCUMULATION_BLOCK + 5)).matrix()
    assert torch.equal(matrix, matrix.T)


def test_sums_of_bfloat16_inputs_are_float32():
    # 4096 ones sum to 4096 exactly; bfloat16 would stop at 256.
    statistic = hessian_of(torch.ones(4096, 3, dtype=torch.bfloat16))
    assert torch.equal(statistic.matrix(), torch.full((3, 3), 2.0))


def test_reading_the_matrix_changes_no_sum():
    statistic = hessian_of(random_inputs(20, 6))
    before = statistic.products.clone()
    assert torch.equal(statistic.matrix(), statistic.matrix())
    assert torch.equal(statistic.products, before)


def test_norms_are_root_mean_squares():
    statistic = InputNorms(3, CPU)
    statistic.update(torch.tensor([[3.0, 0.0, -1.0], [4.0, 0.0, 1.0]]))
    expected = torch.tensor([12.5**0.5, 0.0, 1.0])
    torch.testing.assert_close(statistic.rms(), expected, rtol=1e-6, atol=0)


def test_norms_are_the_diagonal_of_half_the_hessian():
    inputs = random_inputs(50, 9)
    norms = InputNorms(9, CPU)
    norms.update(inputs)
    diagonal = hessian_of(inputs).matrix().diagonal()
    torch.testing.assert_close(norms.rms().square(), diagonal / 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("statistic", [Hessian, InputNorms])
def test_merging_adds_tokens(statistic):
    inputs, parts = random_inputs(30, 4), []
    for part in inputs.split(13):
        parts.append(statistic(4, CPU))
        parts[-1].update(part)
    parts[0].merge_(parts[1])
    parts[0].merge_(parts[2])
    assert parts[0].num_tokens.item() == 30
    assert parts[1].num_tokens.item() == 13


@pytest.mark.parametrize("frac", [0.01, 0.3])
def test_the_factor_is_upper_and_multiplies_to_the_damped_matrix(frac):
    hessian = hessian_of(random_inputs(100, 24)).matrix().double()
    factor = factorise(hessian, frac)
    damped = hessian + frac * hessian.diagonal().mean() * torch.eye(24, dtype=torch.float64)
    assert torch.equal(factor.upper, factor.upper.triu())
    torch.testing.assert_close(factor.upper @ factor.upper.T, damped, rtol=1e-12, atol=1e-12)
    assert factor.dampening_frac == frac


@pytest.mark.parametrize("cols", [FACTOR_BLOCK, 2 * FACTOR_BLOCK, 2 * FACTOR_BLOCK + 77])
def test_the_factor_of_several_blocks_is_the_flipped_cholesky_factor(cols):
    hessian = hessian_of(random_inputs(2 * cols, cols)).matrix()
    factor = factorise(hessian, 0.01)
    damped = hessian.double()
    damped.diagonal().add_(0.01 * damped.diagonal().mean())
    expected = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1)
    assert torch.equal(factor.upper, factor.upper.triu())
    # float32 sums of some hundred products.
    tolerance = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(factor.upper.double(), expected, rtol=0, atol=tolerance)


def test_a_last_block_that_is_not_definite_raises_the_damping_of_all():
    size = FACTOR_BLOCK + 2
    for place in (0, size - 2):
        matrix = torch.eye(size)
        matrix[place, place + 1] = matrix[place + 1, place] = 1.05
        assert factorise(matrix, 0.01).dampening_frac == pytest.approx(0.1)


def test_inverse_triangles_are_inverses():
    corners = torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(0)).tril()
    corners += 4 * torch.eye(9)
    products = inverse_triangle(corners) @ corners
    torch.testing.assert_close(products, torch.eye(9).expand(3, 9, 9), rtol=0, atol=1e-6)


def test_the_factor_inverts_the_originals_factor():
    # The reference solver takes inv(H) = UT U with U upper; here U = inv(L).
    hessian = hessian_of(random_inputs(100, 24)).matrix().double()
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(24, dtype=torch.float64)
    U = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    product = U @ factorise(hessian, 0.01).upper
    torch.testing.assert_close(product, torch.eye(24).double(), rtol=0, atol=1e-10)


def test_factorising_leaves_the_matrix_as_it_was():
    hessian = hessian_of(random_inputs(10, 8)).matrix()
    before = hessian.clone()
    factorise(hessian, 0.01)
    assert torch.equal(hessian, before)


def test_dead_inputs_are_named_and_decoupled():
    inputs = random_inputs(40, 6)
    inputs[:, [1, 5]] = 0.0
    factor = factorise(hessian_of(inputs).matrix(), 0.01)
    assert factor.dead.tolist() == [False, True, False, False, False, True]
    for j in (1, 5):
        unit = torch.eye(6)[j]
        assert torch.equal(factor.upper[j], unit) and torch.equal(factor.upper[:, j], unit)


def test_dead_inputs_do_not_change_the_others():
    inputs = random_inputs(40, 4)
    padded = torch.cat([inputs, torch.zeros(40, 4)], dim=1)
    # The mean diagonal halves where half of it is zero, so damping doubles to stay the same.
    alone = factorise(hessian_of(inputs).matrix().double(), 0.01).upper
    beside = factorise(hessian_of(padded).matrix().double(), 0.02).upper
    torch.testing.assert_close(beside[:4, :4], alone, rtol=1e-12, atol=1e-12)


def test_fewer_tokens_than_inputs_are_enough_with_the_default_damping():
    assert factorise(hessian_of(random_inputs(3, 64)).matrix(), 0.01).dampening_frac == 0.01


@pytest.mark.parametrize(
    ("coupling", "needed"), [(0.5, 0.01), (1.05, 0.1), (1.5, 1.0)], ids=["none", "one", "two"]
)
def test_damping_rises_tenfold_until_the_matrix_is_definite(coupling, needed, caplog):
    matrix = torch.tensor([[1.0, coupling], [coupling, 1.0]])
    assert factorise(matrix, 0.01).dampening_frac == pytest.approx(needed)
    assert caplog.text.count("damping raised") == round(torch.tensor(needed / 0.01).log10().item())


def test_raised_damping_is_never_the_identity():
    matrix = torch.tensor([[1.0, 1.05], [1.05, 1.0]], dtype=torch.float64)
    upper = factorise(matrix, 0.01).upper
    expected = matrix + 0.1 * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(upper @ upper.T, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("start", "named"), [(0.01, 10), (0.05, 10), (4.0, 40)])
def test_a_matrix_that_stays_indefinite_fails_with_the_value_to_try(start, named):
    matrix = torch.tensor([[1.0, 9.0], [9.0, 1.0]])
    with pytest.raises(PruningError, match=rf"--prune.dampening-frac {named} "):
        factorise(matrix, start)


@pytest.mark.parametrize("statistic", [Hessian, InputNorms])
def test_finite_statistics_pass(statistic):
    seen = statistic(3, CPU)
    seen.update(torch.ones(2, 3))
    seen.require_finite()


@pytest.mark.parametrize("statistic", [Hessian, InputNorms])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_statistics_that_are_not_finite_are_refused(statistic, value):
    seen = statistic(3, CPU)
    seen.update(torch.tensor([[1.0, value, 1.0]]))
    with pytest.raises(PruningError, match="NaN or infinite"):
        seen.require_finite()
