"""The recorded reconstruction error of a matrix: against outputs in float64, and harmless."""

import copy

import pytest
import torch
from transformers import OPTConfig

import core.sequential
import core.solving
from core.activations import Calibration
from core.config import PruneConfig
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.pruners import PRUNERS
from core.pruners.hessian import Hessian, InputNorms
from core.pruners.layer_error import relative_error, row_step
from core.ranks import Ranks
from core.targets import Target

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
WINDOWS = torch.randint(320, (6, 40), generator=torch.Generator().manual_seed(0))


def layer(cols: int, seed: int = 0, rows: int = 24):
    """Correlated inputs, a matrix, and what pruning left of it."""
    source = torch.Generator().manual_seed(seed)
    mix = torch.randn(cols, cols, generator=source) / cols**0.5 + torch.eye(cols)
    inputs = torch.randn(500, cols, generator=source) @ mix
    before = torch.randn(rows, cols, generator=source)
    mask = torch.rand(rows, cols, generator=source) > 0.5
    return inputs, before, before * mask * 1.1


# Widths within one block of columns, one beyond it, and beyond a block of accumulation.
@pytest.mark.parametrize("cols", [16, 257, 700])
def test_error_is_the_change_of_the_outputs_over_their_size(cols):
    inputs, before, after = layer(cols)
    statistic = Hessian(cols, CPU)
    statistic.update(inputs[:300])
    statistic.update(inputs[300:])
    x, w, d = inputs.double(), before.double(), (before - after).double()
    expected = (x @ d.T).square().sum() / (x @ w.T).square().sum()
    # float32 sums of 500 products: 1e-4 relative.
    found = relative_error(statistic, before, after)
    assert found == pytest.approx(expected.item(), rel=1e-4)


def test_short_calibration_looks_at_some_rows_and_the_usual_one_at_all():
    assert {row_step(r, c, 128 * 2048) for r, c in ((768, 768), (3072, 768), (768, 3072))} == {1}
    assert row_step(24, 4096, 10) == 1
    steps = [row_step(3072, 768, tokens) for tokens in (1_000, 4_000, 16_000, 64_000)]
    assert steps == sorted(steps, reverse=True) and steps[0] > 1 and steps[-1] == 1
    assert all(step % 2 for step in steps)


def test_an_error_over_some_rows_is_near_that_over_all():
    inputs, before, after = layer(64, rows=2000)
    statistic = Hessian(64, CPU)
    statistic.update(inputs)
    assert row_step(2000, 64, 500) > 1
    x, w, d = inputs.double(), before.double(), (before - after).double()
    expected = (x @ d.T).square().sum() / (x @ w.T).square().sum()
    # Rows vary by a third; the mean over a seventh of 2000 by 3 %.
    assert relative_error(statistic, before, after) == pytest.approx(expected.item(), rel=0.1)


def test_with_norms_alone_inputs_count_as_uncorrelated():
    inputs, before, after = layer(16)
    statistic = InputNorms(16, CPU)
    statistic.update(inputs)
    squares = inputs.double().square().sum(0)
    change, size = ((m.double().square() * squares).sum() for m in (before - after, before))
    expected = (change / size).item()
    assert relative_error(statistic, before, after) == pytest.approx(expected, rel=1e-5)


def test_an_unchanged_matrix_has_no_error_and_an_emptied_one_all_of_it():
    inputs, before, _ = layer(16)
    statistic = Hessian(16, CPU)
    statistic.update(inputs)
    assert relative_error(statistic, before, before) == 0.0
    assert relative_error(statistic, before, torch.zeros_like(before)) == pytest.approx(1.0)


def test_there_is_no_error_without_a_statistic_or_outputs():
    inputs, before, after = layer(16)
    silent = Hessian(16, CPU)
    silent.update(torch.zeros_like(inputs))
    assert relative_error(None, before, after) is None
    assert relative_error(silent, before, after) is None


@pytest.fixture(scope="module")
def model(make_model_dir):
    shape = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64}
    config = OPTConfig(**shape, num_attention_heads=4, word_embed_proj_dim=32, init_std=0.2)
    return load_model(make_model_dir(config), torch.float32)


def prune(model, method: str):
    model = copy.deepcopy(model)
    pruner = PRUNERS[method](PruneConfig(block_size=16))
    windows = None if pruner.statistic is None else WINDOWS
    calibration = Calibration(windows, micro_batch=3)
    report = core.sequential.prune_(model, pruner, Target(0.5), Ranks.current(), calibration)
    return model, report


def test_every_matrix_has_its_error_in_model_order(model):
    names = [*prunable_matrices(model)]
    for method, known in (("magnitude", False), ("wanda", True), ("sparsegpt", True)):
        _, report = prune(model, method)
        assert [*report.errors] == names
        assert all((error is not None) == known for error in report.errors.values())


def test_the_first_layers_error_is_that_of_its_outputs(model):
    seen, name = [], "model.decoder.layers.0.self_attn.q_proj"
    linear = model.get_submodule(name)
    hook = linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(WINDOWS)
    hook.remove()
    pruned, report = prune(model, "sparsegpt")
    x, old = seen[0].flatten(0, 1).double(), linear.weight.double()
    new = pruned.get_submodule(name).weight.double()
    expected = (x @ (old - new).T).square().sum() / (x @ old.T).square().sum()
    assert report.errors[name] == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "alps"])
def test_recording_errors_changes_no_bit_of_what_is_pruned(model, method, monkeypatch):
    recorded, report = prune(model, method)
    silent = dict.fromkeys(report.errors)
    monkeypatch.setattr(core.solving, "layer_errors", lambda *_: silent)
    plain, other = prune(model, method)
    assert all(torch.equal(mask, other.masks[name]) for name, mask in report.masks.items())
    for (name, a), (_, b) in zip(recorded.named_parameters(), plain.named_parameters()):
        assert torch.equal(a, b), name
