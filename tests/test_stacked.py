"""Experts that are solved at once: the masks of each solved by itself, the same exact counts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from core import accelerator, solving
from core.activations import Calibration
from core.config import PruneConfig
from core.models.blocks import prunable_matrices
from core.pruners import make_pruner
from core.pruners.hessian import Hessian
from core.pruners.pruner import Ask, Pruner
from core.pruners.sparsegpt import SparseGPT
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from tests.tiny_types import config_of, model_of

RANKS = Ranks.current()
COLS, ROWS = 48, [20, 12]
WINDOWS = torch.randint(3, 100, (6, 16), generator=torch.Generator().manual_seed(3))
CALIBRATION = Calibration(WINDOWS, micro_batch=4)
SOLVER = make_pruner("sparsegpt", PruneConfig(block_size=16))
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["cpu", "accelerator"])
def way(request, monkeypatch):
    """Solve as on a CPU, and as on an accelerator."""
    if request.param == "accelerator":
        monkeypatch.setattr(accelerator, "HOSTS", frozenset())


def statistic_of(x: Tensor) -> Hessian:
    found = Hessian(x.shape[1], RANKS.device)
    found.update(x)
    return found


def asks(target: Target, count: int = 5, gone: float = 0.0) -> list[Ask]:
    """Random experts, each with its own inputs; the third has an input that is always zero."""
    made, generator = [], torch.Generator().manual_seed(0)
    for expert in range(count):
        weights = [torch.randn(rows, COLS, generator=generator) for rows in ROWS]
        x = torch.randn(200, COLS, generator=generator) @ torch.randn(
            COLS, COLS, generator=generator
        )
        x[:, 7] *= expert != 2
        masks = None
        if gone:
            masks = [torch.rand(w.shape, generator=generator) > gone for w in weights]
        made.append(Ask(weights, statistic_of(x), [target] * len(ROWS), masks))
    return made


def alone(ask: Ask):
    return SOLVER.prune(ask.weights, ask.statistic, ask.targets, ask.masks)


TARGETS = [Target(0.0), Target(0.3), Target(0.5), Target(1.0), Target.structured("2:4")]
TARGETS += [Target.structured("4:8")]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_each_expert_is_solved_as_by_itself(target, way):
    made = asks(target)
    for ask, found in zip(made, SOLVER.prune_stack(made), strict=True):
        assert found is not None
        wanted = alone(ask)
        assert found.dampening_frac == wanted.dampening_frac
        for one, other, before in zip(found.matrices, wanted.matrices, ask.weights, strict=True):
            assert torch.equal(one.mask, other.mask)
            assert (one.mask.numel() - one.mask.sum()) == round(target.sparsity * before.numel())
            most = 1e-5 * float(before.abs().max())
            assert torch.allclose(one.weight, other.weight, rtol=1e-5, atol=most)
            assert not one.weight[~one.mask].any()


def test_earlier_masks_only_grow(way):
    for target, gone in ((Target(0.6), 0.3), (Target.structured("1:4"), 0.05)):
        made = asks(target, gone=gone)
        solved = SOLVER.prune_stack(made)
        # Counts by column may differ from expert to expert: such are solved alone.
        assert sum(found is not None for found in solved) >= 2
        for ask, found in zip(made, solved, strict=True):
            for one, other, earlier in zip(
                found.matrices if found else [], alone(ask).matrices, ask.masks or ()
            ):
                assert torch.equal(one.mask, other.mask) and not (one.mask & ~earlier).any()


def test_an_expert_that_cannot_be_solved_so_is_left_to_the_usual_way(way):
    made = asks(Target(0.5))
    unseen = statistic_of(torch.zeros(0, COLS))
    made[1] = Ask(made[1].weights, unseen, made[1].targets, None)
    made[3] = Ask(
        [w * torch.nan for w in made[3].weights], made[3].statistic, made[3].targets, None
    )
    broken = statistic_of(torch.randn(9, COLS))
    broken.products[0, 0] = -1e4
    made[4] = Ask(made[4].weights, broken, made[4].targets, None)
    found = SOLVER.prune_stack(made)
    assert [one is not None for one in found] == [True, False, True, False, False]
    rounded = make_pruner("sparsegpt", PruneConfig(weight_bits=4))
    for pruner in (rounded, make_pruner("alps", PruneConfig())):
        assert pruner.prune_stack(made) == [None] * 5


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("target", [Target(0.5), Target.structured("2:4")], ids=str)
def test_a_mixture_is_pruned_as_expert_by_expert(model_type, target, monkeypatch):
    model = model_of(config_of(model_type))
    monkeypatch.setattr(accelerator, "HOSTS", frozenset())
    sizes = []
    together = SparseGPT.prune_stack
    ways = {
        "stacked": lambda self, asks: sizes.append(len(asks)) or together(self, asks),
        "alone": Pruner.prune_stack,
    }
    found = {}
    for name, prune_stack in ways.items():
        monkeypatch.setattr(SparseGPT, "prune_stack", prune_stack)
        pruned = copy.deepcopy(model)
        done = prune_(pruned, make_pruner("sparsegpt", PruneConfig()), target, RANKS, CALIBRATION)
        found[name] = done, prunable_matrices(pruned)
    # In each of three blocks all four experts at once, first and last matrices apart.
    assert sizes == [4, 4] * 3
    (one, mine), (other, theirs) = found["stacked"], found["alone"]
    assert one.expert_tokens == other.expert_tokens
    for name, mask in other.masks.items():
        assert torch.equal(one.masks[name], mask), name
        most = 1e-4 * float(theirs[name].read().abs().max())
        assert torch.allclose(mine[name].read(), theirs[name].read(), rtol=0, atol=most), name


def test_a_stack_holds_no_more_than_its_bytes(monkeypatch):
    model = model_of(config_of("qwen3_moe"))
    monkeypatch.setattr(accelerator, "HOSTS", frozenset())
    # Two experts: five copies of H of 64 inputs and of two matrices [32, 64] each.
    monkeypatch.setattr(solving, "STACK_BYTES", 2 * 5 * 4 * 64 * (64 + 2 * 32))
    sizes, together = [], SparseGPT.prune_stack
    monkeypatch.setattr(
        SparseGPT, "prune_stack", lambda self, a: sizes.append(len(a)) or together(self, a)
    )
    prune_(model, make_pruner("sparsegpt", PruneConfig()), Target(0.5), RANKS, CALIBRATION)
    assert sizes and max(sizes) <= 4 and sizes.count(2) >= 2 * 3


def test_a_cpu_solves_experts_one_by_one(monkeypatch):
    monkeypatch.setattr(SparseGPT, "prune_stack", lambda *_: pytest.fail("a stack"))
    model = model_of(config_of("qwen3_moe"))
    prune_(model, make_pruner("sparsegpt", PruneConfig()), Target(0.5), RANKS, CALIBRATION)
