"""ALPS: errors below SparseGPT's and the official code's, survivors that are least squares."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core import accelerator
from core.activations import Activations, gather_statistics
from core.config import PruneConfig
from core.models.blocks import prunable_blocks
from core.models.loading import load_model
from core.models.matrices import Matrix
from core.models.tokenizers import load_tokenizer
from core.pruners import PRUNERS, alps
from core.pruners.hessian import Hessian
from core.pruners.layer_error import quadratic
from core.pruners.pruner import PruningError
from core.ranks import Ranks
from core.targets import Target
from core.texts.sources import resolve_text
from core.texts.windows import calibration_windows

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "core" / "assets" / "model"
OFFICIAL = runpy.run_path(str(HERE / "official_alps.py"))
TARGETS = [Target(s) for s in (0.5, 0.6, 0.7, 0.8, 0.9)]
TARGETS += [Target.structured(text) for text in ("2:4", "4:8", "1:4")]
all_targets = pytest.mark.parametrize(
    "target", TARGETS, ids=lambda target: target.mask_structure or target.sparsity
)


def layer(rows: int = 96, cols: int = 64, tokens: int = 400) -> tuple[Tensor, Tensor]:
    """A random matrix and inputs of unequal size, half of whose directions carry the variance."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(tokens, cols // 2, generator=generator)
    inputs = inputs @ torch.randn(cols // 2, cols, generator=generator)
    inputs = (inputs + torch.randn(inputs.shape, generator=generator)) * torch.linspace(
        0.1, 3, cols
    )
    return torch.randn(rows, cols, generator=generator), inputs


def prune(method: str, weights: list[Tensor], inputs: Tensor, target: Target, masks=None):
    statistic = Hessian(inputs.shape[1], torch.device("cpu"))
    statistic.update(inputs)
    return PRUNERS[method](PruneConfig()).prune(weights, statistic, target, masks).matrices


def error(new: Tensor, old: Tensor, inputs: Tensor) -> float:
    return float((inputs.double() @ (new - old).double().T).square().sum())


@all_targets
def test_error_is_below_sparsegpts(target):
    weight, inputs = layer()
    ours, theirs = (prune(m, [weight], inputs, target)[0].weight for m in ("alps", "sparsegpt"))
    assert error(ours, weight, inputs) < 0.95 * error(theirs, weight, inputs)


def is_square(matrix: Matrix) -> bool:
    return matrix.rows == matrix.cols


@pytest.fixture(scope="module")
def real_inputs():
    """Groups of two blocks of the embedded model: with statistics for solving, and held out."""
    model, ranks = load_model(MODEL, torch.float32), Ranks.current()
    tokenizer, text = load_tokenizer(MODEL), resolve_text("embedded", "calibration")
    found = []
    for seed in (0, 1):
        windows = calibration_windows(text, tokenizer, 16, 256, None, seed)
        activations = Activations(model, windows.split(8), ranks)
        blocks = [
            gather_statistics(Hessian, block, activations, ranks, advance=True)
            for block in prunable_blocks(model)[:2]
        ]
        # Those of attention are square.
        found.append([g for block in blocks for g in block if is_square(g.matrices[0])])
    return found


@pytest.mark.parametrize("target", [*TARGETS[:5:2], TARGETS[5]], ids=lambda target: target.label)
def test_errors_are_below_those_of_the_official_code(target, real_inputs):
    # On each matrix at most 1 % above it, in the geometric mean below it, and so on held-out text.
    ratios = []
    for group, held_out in zip(*real_inputs):
        weights = [one.read() for one in group.matrices]
        ours = PRUNERS["alps"](PruneConfig()).prune(weights, group.statistic, target, None)
        for weight, new in zip(weights, ours.matrices, strict=True):
            theirs = OFFICIAL["official_weights"](weight, group.statistic.matrix(), target)
            both = [
                [quadratic(each.statistic.products.double(), weight - found) for found in pair]
                for each in (group, held_out)
                for pair in [(new.weight.double(), theirs)]
            ]
            ratios.append([float(mine / other) for mine, other in both])
    same, held_out = torch.tensor(ratios).T
    assert same.log().mean() <= 0 and same.max() <= 1.01
    assert held_out.log().mean() <= 0 and held_out.max() <= 1.03


@pytest.mark.parametrize("tokens", [3, 20])
@all_targets
def test_error_is_at_most_sparsegpts_with_fewer_tokens_than_inputs(tokens, target):
    # The undamped H is singular: errors are near 0, so equality up to float32 rounding counts.
    weight, inputs = layer(tokens=tokens)
    ours, theirs = (prune(m, [weight], inputs, target)[0].weight for m in ("alps", "sparsegpt"))
    slack = 1e-6 * error(torch.zeros_like(weight), weight, inputs)
    assert error(ours, weight, inputs) <= error(theirs, weight, inputs) + slack


def test_survivors_are_the_damped_least_squares_on_their_support():
    weight, inputs = layer(rows=8)
    pruned = prune("alps", [weight], inputs, Target(0.5))[0]
    hessian = 2 / len(inputs) * inputs.double().T @ inputs.double()
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    for new, old, kept in zip(pruned.weight, weight.double(), pruned.mask, strict=True):
        pull = hessian[kept][:, ~kept] @ old[~kept]
        expected = old[kept] + torch.linalg.solve(hessian[kept][:, kept], pull)
        # Conjugate gradients in float32, condition about 1e3.
        torch.testing.assert_close(new[kept].double(), expected, rtol=1e-3, atol=1e-3)


def test_masks_only_grow_and_counts_stay_exact():
    weight, inputs = layer()
    mask = torch.ones_like(weight, dtype=torch.bool)
    for sparsity in (0.3, 0.5, 0.51, 0.9):
        pruned = prune("alps", [weight], inputs, Target(sparsity), [mask])[0]
        assert int((~pruned.mask).sum()) == round(sparsity * weight.numel())
        assert not (pruned.mask & ~mask).any()
        weight, mask = pruned.weight, pruned.mask


def test_a_support_that_loses_gives_way_to_sparsegpts(monkeypatch):
    # ADMM is made to return a random support: the result must be SparseGPT's mask, refined.
    search = PRUNERS["alps"].prune_checked.__globals__["Search"]
    weight, inputs = layer()

    def lost(self, inverse, rho):
        self.mask = self.start.mask[torch.arange(len(self.start.mask)).roll(1)]
        self.state = rho * self.goal * self.mask

    monkeypatch.setattr(search, "step", lost)
    ours, theirs = (prune(m, [weight], inputs, Target(0.7))[0] for m in ("alps", "sparsegpt"))
    assert torch.equal(ours.mask, theirs.mask)
    assert error(ours.weight, weight, inputs) < error(theirs.weight, weight, inputs)
    assert ours.fell_back and not theirs.fell_back


SAME = [Target(0.4), Target(0.6), Target(0.9), Target.structured("2:4")]
"""Targets at which the support of the layer does not depend on rounding. At 0.5 it does: the same
tokens in another order move up to 1.4 % of it on some machines, and the error by 0.4 %."""


@pytest.mark.parametrize("target", SAME)
def test_the_way_of_an_accelerator_ends_at_the_same_error(monkeypatch, target):
    weight, inputs = layer()
    here = prune("alps", [weight], inputs, target)[0]
    monkeypatch.setattr(accelerator, "HOSTS", frozenset())
    there = prune("alps", [weight], inputs, target)[0]
    errors = [error(each.weight, weight, inputs) for each in (here, there)]
    assert errors[1] == pytest.approx(errors[0], rel=1e-5)
    assert (here.mask == there.mask).float().mean() >= 0.999


def test_a_hessian_that_penalties_do_not_make_definite_is_refused(monkeypatch):
    weight, inputs = layer(rows=4, cols=8)
    monkeypatch.setattr(alps, "PENALTY", -10.0)
    with pytest.raises(PruningError, match="--prune.dampening-frac"):
        prune("alps", [weight], inputs, Target(0.5))
