"""The contract that every pruner keeps, unstructured and N:M."""

import dataclasses

import pytest
import torch
from torch import Tensor

from core.config import PruneConfig
from core.methods import METHODS
from core.pruners import PRUNERS
from core.pruners.pruner import Pruned, Pruner, PruningError, Statistic
from core.targets import Target

NAMES = sorted(PRUNERS)
CALIBRATED = [method for method in NAMES if PRUNERS[method].statistic is not None]
STRUCTURES = ["2:4", "1:4", "3:4", "2:8"]
TARGETS = [Target(0.0), Target(0.123), Target(0.5), Target(1.0), Target.structured("2:4")]
# 7 rows of 40 inputs, in mask blocks of 16: two whole ones and a rest.
ROWS, COLS, BLOCK = 7, 40, 16

all_methods = pytest.mark.parametrize("method", NAMES)
calibrated_methods = pytest.mark.parametrize("method", CALIBRATED)
all_targets = pytest.mark.parametrize(
    "target", TARGETS, ids=lambda target: target.mask_structure or target.sparsity
)


pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated_inputs(tokens: int = 400, cols: int = COLS, seed: int = 1) -> Tensor:
    """Inputs of unequal size in which a third of the directions carries most of the variance."""
    mixed = random(tokens, cols // 3, seed=seed) @ random(cols // 3, cols, seed=seed + 1)
    return (mixed + 0.3 * random(tokens, cols, seed=seed + 2)) * torch.linspace(0.2, 2, cols)


def make(method: str, **settings) -> Pruner:
    return PRUNERS[method](PruneConfig(**({"block_size": BLOCK} | settings)))


def gather(pruner: Pruner, *batches: Tensor) -> Statistic | None:
    if pruner.statistic is None:
        return None
    statistic = pruner.statistic(batches[0].shape[1], torch.device("cpu"))
    for batch in batches:
        statistic.update(batch)
    return statistic


def prune(
    method: str,
    weights: list[Tensor],
    target: Target,
    inputs: Tensor | None = None,
    masks: list[Tensor] | None = None,
) -> list[Pruned]:
    inputs = correlated_inputs(cols=weights[0].shape[1]) if inputs is None else inputs
    pruner = make(method)
    return pruner.prune(weights, gather(pruner, inputs), target, masks).matrices


def prune_one(method: str, weight: Tensor, target: Target, inputs: Tensor | None = None) -> Pruned:
    return prune(method, [weight], target, inputs)[0]


def expected_count(method: str, rows: int, cols: int, target: Target) -> int:
    by_row = METHODS[method].by_row or target.mask_structure is not None
    return rows * round(target.sparsity * cols) if by_row else round(target.sparsity * rows * cols)


def assert_exact(method: str, pruned: Pruned, target: Target) -> None:
    """Counts are exact, pruned weights are plus zero, survivors finite, groups hold."""
    rows, cols = pruned.mask.shape
    assert int((~pruned.mask).sum()) == expected_count(method, rows, cols, target)
    zeros = pruned.weight[~pruned.mask]
    assert not zeros.any() and not torch.signbit(zeros).any()
    assert torch.isfinite(pruned.weight).all()
    if target.mask_structure is not None:
        survivors, group = map(int, target.mask_structure.split(":"))
        assert (pruned.mask.view(rows, -1, group).sum(-1) == survivors).all()
    elif METHODS[method].by_row:
        assert ((~pruned.mask).sum(1) == round(target.sparsity * cols)).all()


def test_the_registry_names_each_method_as_its_class_does():
    assert set(PRUNERS) == set(METHODS)
    for name, pruner in PRUNERS.items():
        assert pruner.facts is METHODS[name]
        statistic = None if pruner.statistic is None else pruner.statistic.__name__
        assert statistic == METHODS[name].statistic


@all_methods
def test_a_pruner_is_frozen_versioned_and_reads_known_fields(method):
    pruner = make(method)
    assert isinstance(pruner.facts.version, int) and pruner.facts.version >= 1
    assert set(pruner.facts.fields_read) <= {f.name for f in dataclasses.fields(PruneConfig)}
    with pytest.raises(dataclasses.FrozenInstanceError):
        pruner.config = PruneConfig()


@all_methods
def test_only_fields_read_change_the_result(method):
    weight, inputs = random(ROWS, COLS), correlated_inputs()
    default = make(method)
    for name, value in {"dampening_frac": 0.3, "block_size": 8}.items():
        other = make(method, **{name: value})
        pairs = [p.prune([weight], gather(p, inputs), Target(0.5)) for p in (default, other)]
        same = torch.equal(pairs[0].matrices[0].weight, pairs[1].matrices[0].weight)
        assert same == (name not in default.facts.fields_read)


@all_methods
@pytest.mark.parametrize("sparsity", [0.0, 1e-4, 0.123, 1 / 3, 0.5, 0.777, 0.999, 1.0])
@pytest.mark.parametrize("shape", [(7, 40), (1, 40), (13, 1), (5, 17), (1, 1)])
def test_unstructured_counts_are_exact(method, sparsity, shape):
    target = Target(sparsity)
    assert_exact(method, prune_one(method, random(*shape), target, random(50, shape[1])), target)


@all_methods
@pytest.mark.parametrize("structure", STRUCTURES)
def test_groups_are_exact(method, structure):
    target = Target.structured(structure)
    assert_exact(method, prune_one(method, random(ROWS, COLS), target), target)


@all_methods
def test_a_group_wider_than_the_mask_block_is_exact(method):
    target = Target.structured("5:20")
    assert_exact(method, prune_one(method, random(ROWS, COLS), target), target)


@all_methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sparsity_zero_changes_no_bit(method, dtype):
    weight = random(ROWS, COLS).to(dtype)
    pruned = prune_one(method, weight, Target(0.0))
    assert pruned.mask.all()
    assert torch.equal(pruned.weight, weight)


@all_methods
def test_sparsity_one_leaves_nothing(method):
    pruned = prune_one(method, random(ROWS, COLS), Target(1.0))
    assert not pruned.mask.any() and not pruned.weight.any()


@all_methods
def test_a_width_that_groups_do_not_divide_is_refused(method):
    with pytest.raises(ValueError, match=r"--mask-structures 2:4.*42 inputs"):
        prune_one(method, random(ROWS, 42), Target.structured("2:4"))


@all_methods
def test_masks_grow_along_a_branch(method):
    weight, mask = random(ROWS, COLS), torch.ones(ROWS, COLS, dtype=torch.bool)
    for sparsity in (0.0, 0.2, 0.21, 0.5, 0.9, 1.0):
        pruned = prune(method, [weight], Target(sparsity), masks=[mask])[0]
        assert_exact(method, pruned, Target(sparsity))
        assert not (pruned.mask & ~mask).any()
        weight, mask = pruned.weight, pruned.mask


@all_methods
def test_groups_grow_along_a_branch(method):
    weight, mask = random(ROWS, COLS), torch.ones(ROWS, COLS, dtype=torch.bool)
    for structure in ("7:8", "6:8", "3:8", "1:8"):
        pruned = prune(method, [weight], Target.structured(structure), masks=[mask])[0]
        assert_exact(method, pruned, Target.structured(structure))
        assert not (pruned.mask & ~mask).any()
        weight, mask = pruned.weight, pruned.mask


@all_methods
@pytest.mark.parametrize("dense_block", [slice(0, 16), slice(16, 32), slice(24, 40)])
def test_masks_grow_from_one_far_denser_than_its_block_quota(method, dense_block):
    # 16 of 40 inputs are gone in every row: 40 % of the matrix, 100 % of a block.
    mask = torch.ones(ROWS, COLS, dtype=torch.bool)
    mask[:, dense_block] = False
    for sparsity in (0.4, 0.5, 0.8):
        pruned = prune(method, [random(ROWS, COLS) * mask], Target(sparsity), masks=[mask])[0]
        assert_exact(method, pruned, Target(sparsity))
        assert not (pruned.mask & ~mask).any()


@all_methods
@all_targets
def test_a_weight_pruned_earlier_stays_zero_even_if_it_was_refilled(method, target):
    mask = torch.ones(ROWS, COLS, dtype=torch.bool)
    mask[:, ::8] = False
    if target.sparsity < 0.125:
        target = Target(0.125)
    pruned = prune(method, [100 * random(ROWS, COLS)], target, masks=[mask])[0]
    assert_exact(method, pruned, target)
    assert not pruned.weight[:, ::8].any()


@calibrated_methods
@pytest.mark.parametrize("target", [Target(0.3), Target.structured("3:4")])
def test_dead_inputs_go_first(method, target):
    inputs = correlated_inputs()
    inputs[:, 1::4] = 0.0
    weight = random(ROWS, COLS)
    weight[:, 1::4] *= 100
    pruned = prune_one(method, weight, target, inputs)
    assert_exact(method, pruned, target)
    assert not pruned.mask[:, 1::4].any()


@calibrated_methods
def test_dead_inputs_beyond_the_quota_survive_with_their_value(method):
    # Half of the inputs is dead, a tenth is pruned: no live weight goes, nothing is compensated.
    inputs = correlated_inputs()
    inputs[:, ::2] = 0.0
    weight, target = random(ROWS, COLS), Target(0.1)
    pruned = prune_one(method, weight, target, inputs)
    assert_exact(method, pruned, target)
    assert pruned.mask[:, 1::2].all()
    assert torch.equal(pruned.weight[pruned.mask], weight[pruned.mask])


@calibrated_methods
def test_a_dead_survivor_keeps_its_value_beside_compensated_weights(method):
    inputs = correlated_inputs()
    dead = torch.tensor([5, 21, 22, 39])
    inputs[:, dead] = 0.0
    weight = random(ROWS, COLS)
    earlier = torch.ones(ROWS, COLS, dtype=torch.bool)
    # A full quota of earlier masks elsewhere leaves no room for the dead inputs.
    earlier[:, :16] = False
    earlier[:, 5] = True
    target = Target(15 / 40)
    pruned = prune(method, [weight], target, inputs, [earlier])[0]
    assert torch.equal(pruned.mask, earlier)
    assert torch.equal(pruned.weight[:, dead], weight[:, dead])


@all_methods
@all_targets
@pytest.mark.parametrize(
    "inputs",
    [
        pytest.param(torch.zeros(20, COLS), id="all-zero"),
        pytest.param(torch.ones(20, COLS), id="constant"),
        pytest.param(random(1, COLS, seed=5).expand(20, -1), id="one-token-repeated"),
        pytest.param(random(1, COLS, seed=5), id="one-token"),
        pytest.param(1e-18 * random(20, COLS), id="tiny"),
        pytest.param(1e12 * random(20, COLS), id="huge"),
        pytest.param(torch.logspace(-6, 6, COLS) * random(99, COLS), id="unequal"),
    ],
)
def test_degenerate_inputs_give_exact_counts_or_a_pruning_error(method, target, inputs):
    try:
        pruned = prune_one(method, random(ROWS, COLS), target, inputs)
    except PruningError as error:
        assert "--prune.dampening-frac" in str(error)
    else:
        assert_exact(method, pruned, target)


@calibrated_methods
def test_all_zero_inputs_move_no_survivor(method):
    weight = random(ROWS, COLS)
    pruned = prune_one(method, weight, Target(0.5), torch.zeros(20, COLS))
    assert torch.equal(pruned.weight, weight * pruned.mask)


@calibrated_methods
@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (torch.nan, "input is NaN or infinite; try --dtype float32"),
        (torch.inf, "input is NaN or infinite; try --dtype float32"),
        (1e30, "inputs are so large that sums of their squares overflow float32"),
    ],
)
def test_inputs_without_finite_moments_are_an_error_that_names_the_cause(method, value, cause):
    inputs = correlated_inputs()
    inputs[3, 7] = value
    with pytest.raises(PruningError, match=cause):
        prune_one(method, random(ROWS, COLS), Target(0.5), inputs)


@pytest.mark.parametrize("method", ["sparsegpt", "alps"])
def test_a_mean_that_overflows_is_not_taken_for_too_little_damping(method):
    # Each square is finite, their sum over the 40 inputs is not.
    inputs = torch.full((20, COLS), 3e18)
    with pytest.raises(PruningError, match="overflow float32"):
        prune_one(method, random(ROWS, COLS), Target(0.5), inputs)


@all_methods
def test_weights_that_train_are_pruned_outside_of_autograd(method):
    weight = random(ROWS, COLS)
    plain = prune_one(method, weight, Target(0.5))
    pruned = prune_one(method, weight.requires_grad_(), Target(0.5))
    assert torch.equal(pruned.weight, plain.weight) and not pruned.weight.requires_grad


@all_methods
def test_matrices_of_one_input_may_have_targets_of_their_own(method):
    weights, targets = [random(ROWS, COLS), random(3, COLS, seed=5)], [Target(0.3), Target(0.6)]
    together = prune(method, weights, targets)
    for weight, target, found in zip(weights, targets, together, strict=True):
        assert_exact(method, found, target)
        alone = prune_one(method, weight, target)
        assert torch.equal(found.mask, alone.mask)
        torch.testing.assert_close(found.weight, alone.weight, rtol=1e-3, atol=1e-4)
    with pytest.raises(AssertionError, match="different structures"):
        prune(method, weights, [Target(0.5), Target.structured("2:4")])


@all_methods
def test_earlier_groups_that_leave_no_room_are_refused(method):
    mask = torch.ones(ROWS, COLS, dtype=torch.bool)
    mask[2, 4:7] = False
    with pytest.raises(ValueError, match="--mask-structures 2:4: earlier masks pruned more than 2"):
        prune(method, [random(ROWS, COLS)], Target.structured("2:4"), masks=[mask])


@calibrated_methods
def test_a_statistic_without_tokens_is_an_error(method):
    with pytest.raises(PruningError, match="no calibration token"):
        prune_one(method, random(ROWS, COLS), Target(0.5), torch.zeros(0, COLS))


@all_methods
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_an_error(method, value):
    weight = random(ROWS, COLS)
    weight[2, 3] = value
    with pytest.raises(PruningError, match="a weight is NaN or infinite"):
        prune_one(method, weight, Target(0.5))


@all_methods
@all_targets
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_arguments_are_not_changed(method, target, dtype):
    pruner, weights = make(method), [random(ROWS, COLS).to(dtype), random(3, COLS).to(dtype)]
    masks = [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
    if target.sparsity >= 0.123:
        for mask in masks:
            mask[:, ::16] = False
    statistic = gather(pruner, correlated_inputs())
    tensors = [*weights, *masks, *(statistic.tensors() if statistic else [])]
    copies = [tensor.clone() for tensor in tensors]
    pruner.prune(weights, statistic, target, masks)
    assert all(torch.equal(a, b) for a, b in zip(tensors, copies, strict=True))


@all_methods
def test_results_share_no_memory_with_the_weights(method):
    weight = random(ROWS, COLS)
    pruned = prune_one(method, weight, Target(0.0))
    pruned.weight.zero_()
    assert weight.any()


@all_methods
@all_targets
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_shape_are_kept(method, target, dtype):
    pruned = prune_one(method, random(ROWS, COLS).to(dtype), target)
    assert_exact(method, pruned, target)
    assert pruned.weight.dtype == dtype and pruned.mask.dtype == torch.bool
    assert pruned.weight.shape == pruned.mask.shape == (ROWS, COLS)
    assert pruned.weight.is_contiguous() and pruned.mask.is_contiguous()


@all_methods
def test_matrices_of_one_stack_keep_their_own_dtypes(method):
    dtypes = [torch.float32, torch.bfloat16]
    matrices = prune(method, [random(4, COLS).to(dtype) for dtype in dtypes], Target(0.5))
    assert [pruned.weight.dtype for pruned in matrices] == dtypes


@all_methods
@all_targets
def test_the_same_call_gives_the_same_bits(method, target):
    first, second = (prune_one(method, random(ROWS, COLS), target) for _ in range(2))
    assert torch.equal(first.weight, second.weight) and torch.equal(first.mask, second.mask)


@all_methods
@all_targets
def test_stacked_matrices_come_out_as_one_at_a_time(method, target):
    # Masks are equal; compensated float32 weights may differ by the order of sums, 1e-5.
    weights = [random(7, COLS, seed=1), 5 * random(1, COLS, seed=2), 0.1 * random(30, COLS, seed=3)]
    for pruned, weight in zip(prune(method, weights, target), weights, strict=True):
        alone = prune_one(method, weight, target)
        assert_exact(method, pruned, target)
        assert torch.equal(pruned.mask, alone.mask)
        torch.testing.assert_close(pruned.weight, alone.weight, rtol=1e-5, atol=1e-5)


@all_methods
def test_stacked_matrices_keep_their_own_earlier_masks(method):
    weights = [random(7, COLS, seed=1), random(5, COLS, seed=2)]
    masks = [torch.ones_like(weight, dtype=torch.bool) for weight in weights]
    masks[0][:, :9] = False
    masks[1][:, 30:] = False
    matrices = prune(method, weights, Target(0.5), masks=masks)
    for pruned, weight, mask in zip(matrices, weights, masks, strict=True):
        alone = prune(method, [weight], Target(0.5), masks=[mask])[0]
        assert not (pruned.mask & ~mask).any()
        assert torch.equal(pruned.mask, alone.mask)


@all_methods
@all_targets
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counts_are_exact_where_all_scores_are_equal(method, target, dtype):
    weight = torch.full((ROWS, COLS), -0.25, dtype=dtype)
    # The rows of a scaled identity: every input has the same norm and none is correlated.
    assert_exact(method, prune_one(method, weight, target, torch.eye(COLS)), target)


@all_methods
@all_targets
def test_counts_are_exact_among_few_distinct_values(method, target):
    weight = random(64, COLS).mul(2).round().div(2).to(torch.bfloat16)
    assert len(weight.unique()) < 20
    assert_exact(method, prune_one(method, weight, target), target)


@all_methods
@all_targets
def test_counts_are_exact_where_weights_are_already_zero(method, target):
    # A survivor may happen to be zero: counts are of masked entries.
    pruned = prune_one(method, torch.zeros(ROWS, COLS), target)
    assert_exact(method, pruned, target)
    assert not pruned.weight.any()


@calibrated_methods
def test_merged_statistics_equal_one_over_all_tokens(method):
    # float32 sums in another order: 1e-5 of the largest entry.
    inputs, pruner = correlated_inputs(), make(method)
    whole, merged = gather(pruner, inputs), gather(pruner, inputs[:130])
    assert whole is not None and merged is not None
    for part in (inputs[130:131], inputs[131:]):
        other = gather(pruner, part)
        assert other is not None
        merged.merge_(other)
    for a, b in zip(merged.tensors(), whole.tensors(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))
    results = [pruner.prune([random(ROWS, COLS)], s, Target(0.5)) for s in (merged, whole)]
    first, second = (result.matrices[0] for result in results)
    assert torch.equal(first.mask, second.mask)
    torch.testing.assert_close(first.weight, second.weight, rtol=1e-3, atol=1e-4)


@calibrated_methods
def test_statistics_accept_half_precision_inputs(method):
    inputs, pruner = correlated_inputs().to(torch.bfloat16), make(method)
    half, single = gather(pruner, inputs), gather(pruner, inputs.float())
    assert half is not None and single is not None
    for a, b in zip(half.tensors(), single.tensors(), strict=True):
        assert torch.equal(a, b)


@all_targets
@all_methods
def test_survivors_keep_their_value_where_the_facts_say_so_and_move_elsewhere(method, target):
    weight = random(ROWS, COLS)
    pruned = prune_one(method, weight, target)
    kept = torch.equal(pruned.weight, weight * pruned.mask)
    # Where nothing or everything goes, no survivor can move.
    if 0 < pruned.mask.float().mean() < 1:
        assert kept == METHODS[method].keeps_values
    else:
        assert kept


def test_magnitude_prunes_the_smallest_weights():
    weight = random(ROWS, COLS)
    pruned = prune_one("magnitude", weight, Target(0.5))
    assert weight[~pruned.mask].abs().max() < weight[pruned.mask].abs().min()


def test_magnitude_reads_no_statistic():
    pruner = make("magnitude")
    assert pruner.prune([random(ROWS, COLS)], None, Target(0.5)).dampening_frac is None


def test_wanda_compares_weight_times_input_norm_in_each_row():
    # By hand: |w| * ||x|| is [2, 6, 1, 4] and [8, 3, 2, 1]; half of each row goes.
    weight = torch.tensor([[2.0, -2.0, 1.0, 1.0], [8.0, -1.0, 2.0, 0.25]])
    inputs = torch.diag(torch.tensor([1.0, 3.0, 1.0, 4.0]))
    expected = torch.tensor([[False, True, False, True], [True, True, False, False]])
    assert torch.equal(prune_one("wanda", weight, Target(0.5), inputs).mask, expected)


@pytest.mark.parametrize("target", [Target(0.3), Target(0.5), Target.structured("2:4")])
def test_sparsegpt_loses_least_on_correlated_inputs(target):
    # One mask block: quotas of blocks would cost SparseGPT what they give it in order.
    inputs, weight, error = correlated_inputs(2000), random(64, COLS), {}
    for method in METHODS:
        pruner = make(method, block_size=COLS)
        new = pruner.prune([weight], gather(pruner, inputs), target).matrices[0].weight
        error[method] = float((inputs @ (new - weight).T).norm())
    assert error["sparsegpt"] < 0.8 * error["wanda"]
    assert error["wanda"] < error["magnitude"]


@pytest.mark.parametrize("target", [Target(0.5), Target.structured("2:4")])
def test_sparsegpt_moves_survivors(target):
    weight = random(ROWS, COLS)
    pruned = prune_one("sparsegpt", weight, target)
    moved = pruned.mask & (pruned.weight != weight)
    assert moved.sum() > pruned.mask.sum() / 2


def indefinite(pruner: Pruner, shift: float) -> Statistic:
    """A statistic whose H has the eigenvalue `2 * (1 - shift)` and a mean diagonal of 2."""
    statistic = gather(pruner, torch.zeros(1, 2))
    assert statistic is not None
    statistic.tensors()[0].copy_(torch.tensor([[1.0, shift], [shift, 1.0]]))
    return statistic


def test_sparsegpt_records_the_damping_it_needed(caplog):
    pruner = make("sparsegpt")
    solution = pruner.prune([random(3, 2)], indefinite(pruner, 1.05), Target(0.5))
    assert solution.dampening_frac == pytest.approx(0.1)
    assert "damping raised to 0.1" in caplog.text


def test_sparsegpt_fails_with_the_value_to_try():
    pruner = make("sparsegpt")
    with pytest.raises(PruningError, match=r"not positive definite.*--prune.dampening-frac 10"):
        pruner.prune([random(3, 2)], indefinite(pruner, 3.0), Target(0.5))


def test_sparsegpt_refuses_weights_that_overflow_their_dtype():
    # The survivor takes over 60,000 of its neighbour's weight, more than float16 holds.
    weight = torch.tensor([[2e4, 6e4]], dtype=torch.float16)
    inputs = torch.tensor([[3.0, 1.0], [3.0, 1.0001]])
    with pytest.raises(PruningError, match="overflow.*--prune.dampening-frac"):
        prune("sparsegpt", [weight], Target(0.5), inputs)
