"""Block by block: against a walk that runs the whole model anew for every block."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, OPTConfig

from core.activations import Calibration
from core.config import PruneConfig
from core.finished_blocks import Resumption
from core.measures.sparsity import assert_growing, measure
from core.models.blocks import prunable_blocks, prunable_matrices
from core.models.loading import load_model
from core.pruners import PRUNERS
from core.pruners.pruner import Pruned, PruningError, Solution
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target

RANKS, HALF = Ranks.current(), Target(0.5)
METHODS = ["magnitude", "wanda", "sparsegpt"]
WINDOWS = torch.randint(320, (7, 40), generator=torch.Generator().manual_seed(0))
SHAPE = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
CONFIGS = {
    "opt": OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=32, init_std=0.2),
    # OPT-350M's layout: layer norm after each part, narrow embeddings projected in and out.
    "opt-350m": OPTConfig(
        **SHAPE, ffn_dim=64, word_embed_proj_dim=16, do_layer_norm_before=False, init_std=0.2
    ),
    "llama": LlamaConfig(
        **SHAPE, intermediate_size=64, num_key_value_heads=2, initializer_range=0.2
    ),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=list(CONFIGS))
def dense(request, make_model_dir):
    return load_model(make_model_dir(CONFIGS[request.param]), torch.float32)


@pytest.fixture
def model(dense):
    return copy.deepcopy(dense)


def pruner_of(method: str):
    return PRUNERS[method](PruneConfig(block_size=16))


def prune(model, method: str, target: Target = HALF, masks=None, **settings):
    calibration = Calibration(**{"windows": WINDOWS, "micro_batch": 3} | settings)
    return prune_(model, pruner_of(method), target, RANKS, calibration, masks)


@torch.no_grad()
def walk(model, method: str, target: Target, windows=WINDOWS, masks=None, autocast=False):
    """Prunes each linear by itself, on inputs hooked in a forward of the whole model.

    All linears of a block see the block unpruned and everything before it pruned.
    """
    pruner, found = pruner_of(method), {}
    for block in prunable_blocks(model):
        statistics, hooks = {}, []
        linears = {name: model.get_submodule(name) for name in block.matrices}
        for name, linear in linears.items():
            if pruner.statistic is not None:
                statistic = pruner.statistic(linear.in_features, torch.device("cpu"))
                statistics[name] = statistic
                hooks.append(
                    linear.register_forward_pre_hook(
                        lambda _, args, s=statistic: s.update(args[0].flatten(0, -2))
                    )
                )
        if statistics:
            for batch in windows.split(3):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    model(batch)
        for hook in hooks:
            hook.remove()
        for name, linear in linears.items():
            earlier = None if masks is None else [masks[name]]
            solution = pruner.prune([linear.weight], statistics.get(name), target, earlier)
            found[name] = solution.matrices[0].mask
            linear.weight.copy_(solution.matrices[0].weight)
    return found


def assert_same_models(model, masks, other, expected) -> None:
    """Equal masks; weights to 1e-4, float32 sums over windows in another order."""
    assert masks.keys() == expected.keys()
    for name, mask in masks.items():
        assert torch.equal(mask, expected[name]), name
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [Target(0.5), Target.structured("2:4")])
def test_pruning_equals_a_walk_over_the_whole_model(model, method, target):
    other = copy.deepcopy(model)
    report = prune(model, method, target)
    assert_same_models(model, report.masks, other, walk(other, method, target))


@pytest.mark.parametrize("method", METHODS)
def test_a_second_round_equals_a_walk_with_masks(model, method):
    first = prune(model, method, Target(0.3)).masks
    other = copy.deepcopy(model)
    second = prune(model, method, Target(0.6), masks=first).masks
    assert_growing(first, second)
    assert_same_models(model, second, other, walk(other, method, Target(0.6), masks=first))


def test_a_run_asserts_that_masks_only_grow(model, monkeypatch):
    first = prune(model, "magnitude", Target(0.3)).masks
    monkeypatch.setattr(PRUNERS["magnitude"], "prune_checked", forgetful)
    with pytest.raises(AssertionError, match="a pruned weight came back"):
        prune(model, "magnitude", Target(0.6), masks=first)


def forgetful(pruner, weights, statistic, targets, masks, ranks):
    """Prune at random, whatever was pruned before."""
    found = [torch.rand(w.shape, generator=torch.Generator().manual_seed(9)) > 0.5 for w in weights]
    return Solution([Pruned(w * mask, mask) for w, mask in zip(weights, found)])


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_half_precision_forwards_see_pruned_blocks_and_leave_the_solver_alone(model, method):
    # Same micro-batches, same bf16 products; masks may differ on 0.1 % of the weights.
    other = copy.deepcopy(model)
    report = prune(model, method, compute_dtype=torch.bfloat16)
    expected = walk(other, method, Target(0.5), autocast=True)
    total = sum(mask.numel() for mask in expected.values())
    differing = sum(int((report.masks[name] != mask).sum()) for name, mask in expected.items())
    assert differing <= 1e-3 * total
    assert {param.dtype for param in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_pruned_exactly_everywhere(model, method):
    report = prune(model, method, Target(0.37))
    measured = measure(model, report.masks)
    for name, matrix in prunable_matrices(model).items():
        rows, cols = matrix.read().shape
        by_row = PRUNERS[method].facts.by_row
        expected = rows * round(0.37 * cols) if by_row else round(0.37 * rows * cols)
        assert measured.pruned[name] == expected and measured.total[name] == rows * cols
    assert measured.num_pruned == sum(measured.pruned.values())
    assert measured.worst(0.37) == pytest.approx(0.37, abs=0.5 / 32)


@pytest.mark.parametrize("method", METHODS)
def test_only_linears_of_blocks_change(model, method):
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    names = {f"{name}.weight" for name in prune(model, method).masks}
    for name, param in model.named_parameters():
        assert torch.equal(param, before[name]) == (name not in names), name


@pytest.mark.parametrize("method", METHODS)
def test_sparsity_zero_leaves_every_bit(model, method):
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    masks = prune(model, method, Target(0.0)).masks
    assert all(mask.all() for mask in masks.values())
    assert all(torch.equal(param, before[name]) for name, param in model.named_parameters())


@pytest.mark.parametrize("method", METHODS)
def test_the_same_call_gives_the_same_bits(model, method):
    twin = copy.deepcopy(model)
    prune(model, method)
    prune(twin, method)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))


def test_the_micro_batch_changes_nothing_but_rounding(model):
    other = copy.deepcopy(model)
    first = prune(model, "sparsegpt", micro_batch=1).masks
    second = prune(other, "sparsegpt", micro_batch=99).masks
    assert_same_models(model, first, other, second)


def test_layers_with_one_input_share_one_statistic(model, monkeypatch):
    sizes = []
    method = PRUNERS["wanda"]
    original = method.prune

    def spy(self, weights, *args):
        sizes.append(len(weights))
        return original(self, weights, *args)

    monkeypatch.setattr(method, "prune", spy)
    prune(model, "wanda")
    per_block = {"opt": [3, 1, 1, 1], "llama": [3, 1, 2, 1]}[model.config.model_type]
    assert sizes == per_block * 3


def test_the_statistics_pass_ends_before_the_last_linear(model):
    # Of three micro-batches: the last linear runs to give the next block's inputs, and only then.
    calls = dict.fromkeys(prunable_matrices(model), 0)

    def count(name):
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    for name in calls:
        model.get_submodule(name).register_forward_hook(count(name))
    prune(model, "sparsegpt")
    *before, last = [list(block.matrices) for block in prunable_blocks(model)]
    assert [calls[names[-1]] for names in (*before, last)] == [3, 3, 0]
    assert all(calls[name] == 6 for names in before for name in names[:-1])


@pytest.mark.parametrize("method", METHODS)
def test_each_block_is_handed_over_once_it_is_pruned(model, method):
    seen = []
    prune(model, method, resumption=Resumption(keep=lambda block: seen.append(block.index)))
    assert seen == [0, 1, 2]


def test_magnitude_needs_no_windows(model):
    assert prune(model, "magnitude", windows=None).dampening_frac is None


def test_the_damping_of_the_worst_layer_is_reported(model):
    assert prune(model, "sparsegpt").dampening_frac == 0.01


def test_matrices_on_which_alps_gained_nothing_are_named(model, monkeypatch):
    search = PRUNERS["alps"].prune_checked.__globals__["Search"]
    usual, wide = search.step, model.config.hidden_size + 1
    assert prune(model, "alps").fell_back == []

    def lost(self, inverse, rho):
        usual(self, inverse, rho)
        if self.goal.shape[1] > wide:
            self.mask = self.start.mask.roll(1, 0)
            self.state = rho * self.goal * self.mask

    monkeypatch.setattr(search, "step", lost)
    fell_back = prune(model, "alps", Target(0.7)).fell_back
    narrow = {name for name, matrix in prunable_matrices(model).items() if matrix.cols < wide}
    assert fell_back and not narrow.intersection(fell_back)


def test_windows_and_earlier_masks_are_not_changed(model):
    windows, masks = WINDOWS.clone(), prune(model, "sparsegpt", Target(0.3)).masks
    copies = {name: mask.clone() for name, mask in masks.items()}
    prune(model, "sparsegpt", Target(0.6), windows=windows, masks=masks)
    assert torch.equal(windows, WINDOWS)
    assert masks.keys() == copies.keys()
    assert all(torch.equal(masks[name], copies[name]) for name in masks)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_inputs_that_are_not_finite_name_the_layer(model, method):
    model.get_input_embeddings().weight.data.fill_(torch.nan)
    first = next(iter(prunable_matrices(model)))
    with pytest.raises(PruningError, match=f"{first.rsplit('.', 1)[0]}.*NaN or infinite"):
        prune(model, method)


def test_a_failed_layer_leaves_no_hook_behind(model):
    model.get_input_embeddings().weight.data.fill_(torch.nan)
    with pytest.raises(PruningError):
        prune(model, "wanda")
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_pruned_weight_that_came_back_is_caught(model):
    masks = prune(model, "magnitude").masks
    name, mask = next(iter(masks.items()))
    row, col = (~mask).nonzero()[0]
    model.get_submodule(name).weight.data[row, col] = 1e-9
    with pytest.raises(AssertionError, match=name):
        measure(model, masks)


def test_a_survivor_that_is_zero_counts_as_surviving(model):
    masks = {
        name: torch.ones_like(one.read()).bool() for name, one in prunable_matrices(model).items()
    }
    next(iter(prunable_matrices(model).values())).read().zero_()
    assert measure(model, masks).sparsity == 0.0


def test_masks_that_shrink_are_caught():
    earlier: dict[str, Tensor] = {"a": torch.tensor([[True, False]])}
    assert_growing(earlier, {"a": torch.tensor([[False, False]])})
    with pytest.raises(AssertionError, match="came back"):
        assert_growing(earlier, {"a": torch.tensor([[True, True]])})


def test_the_cost_of_a_solve_counts_factor_and_rows():
    work = PRUNERS["sparsegpt"](PruneConfig()).work([7, 3], 30)
    assert work.operations == 30**3 / 3 + 10 * 30**2
