"""Several blocks of settings in one plan: cells are shared, identities stay."""

from __future__ import annotations

from dataclasses import replace

from identity_grids import Case, calibrating, model

from core.config import FinetuneConfig, PruneConfig
from orchestrator.config import GridConfig
from orchestrator.plan.planner import Extra, Planner, build_plan

METHODS = ("magnitude", "sparsegpt")
BASE = Case({"methods": METHODS, "sparsities": (0.3, 0.7)})
FEW = (model(), model(calibration=calibrating("cal", num_samples=4, seq_len=16, sampling="stream")))
TOKENS = (model(), model(finetune_tokens=4000))


def block(inputs=FEW[0], prune=None, finetune=None, extras=(), **grid):
    """Return a block of the two methods at two sparsities, with its only model."""
    wanted = {"models": ("tiny",), "dtype": "float32", **BASE.grid, **grid}
    settings = (GridConfig(**wanted), prune or PruneConfig(), finetune or FinetuneConfig())
    return Planner(*settings, extras=tuple(extras)), [inputs]


def cells_of(plan, **wanted):
    """Return the cells with these values."""
    return [c for c in plan.cells.values() if all(getattr(c, k) == v for k, v in wanted.items())]


def test_a_block_among_others_keeps_all_of_its_identities():
    alone = [BASE.plan(), build_plan([block(FEW[1])])]
    both = build_plan([block(each) for each in FEW])
    assert {*both.stages} == {*alone[0].stages} | {*alone[1].stages}
    assert {*both.cells} == {*alone[0].cells} | {*alone[1].cells}
    assert [*both.cells][: len(alone[0].cells)] == [*alone[0].cells]
    assert build_plan([block(), block()]).cells == alone[0].cells


def test_a_setting_makes_no_cells_of_a_method_that_does_not_read_it():
    both = build_plan([block(each) for each in FEW])
    assert {cell.block for cell in cells_of(both, method="magnitude")} == {0}
    # One for each block, regime and sparsity.
    assert len(cells_of(both, method="sparsegpt")) == 2 * 3 * 2
    damped = build_plan([block(), block(prune=PruneConfig(dampening_frac=0.1))])
    assert len(damped.cells) == len(both.cells)


def test_a_training_setting_shares_the_prune_stages_and_has_a_control_of_its_own():
    plan = build_plan([block(each) for each in TOKENS])
    oneshot = cells_of(plan, regime="oneshot")
    assert {cell.block for cell in oneshot} == {0} and len(oneshot) == 4
    tuned = cells_of(plan, method="sparsegpt", regime="finetune")
    assert [cell.block for cell in tuned] == [0, 0, 1, 1]
    assert [cell.stages[:2] for cell in tuned[:2]] == [cell.stages[:2] for cell in tuned[2:]]
    controls = cells_of(plan, method="dense", regime="finetune")
    assert [(cell.block, cell.round) for cell in controls] == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_a_budget_for_all_rounds_shares_the_control_of_its_first_round():
    total = FinetuneConfig(budget="total")
    plan = build_plan([block(), block(finetune=total)])
    controls = cells_of(plan, method="dense", regime="finetune")
    assert [(cell.block, cell.round) for cell in controls] == [(0, 1), (0, 2)]


def test_an_extra_sparsity_leaves_the_grid_in_one_step_and_changes_no_other_cell():
    extras = [Extra("tiny", "sparsegpt", regime, 0.62) for regime in ("oneshot", "iterative")]
    extras += [Extra("another", "sparsegpt", "oneshot", 0.4)]
    plan, before = build_plan([block(extras=extras, seeds=(0, 1))]), build_plan([block()])
    assert {*before.cells} < {*plan.cells}
    added = [cell for cell in cells_of(plan) if cell.target.sparsity == 0.62]
    assert [(cell.regime, cell.path, cell.seed) for cell in added] == [
        (regime, path, seed)
        for regime, path in (("oneshot", (0.62,)), ("iterative", (0.3, 0.62)))
        for seed in (0, 1)
    ]
    assert not [cell for cell in plan.cells.values() if cell.target.sparsity == 0.4]
    low = cells_of(plan, method="sparsegpt", regime="iterative", seed=0)[0]
    assert added[2].stages[:3] == low.stages[:3]


def test_blocks_may_differ_in_the_grid_itself():
    first = block(regimes=("oneshot",), methods=("magnitude",))
    second = block(regimes=("oneshot",), sparsities=(0.5,))
    plan = build_plan([first, second])
    found = [(c.method, c.target.sparsity) for c in cells_of(plan, regime="oneshot")]
    assert found == [("magnitude", 0.3), ("magnitude", 0.7), ("magnitude", 0.5), ("sparsegpt", 0.5)]


def test_each_model_of_a_plan_stands_there_once():
    other = replace(model("other"), calibration=FEW[1].calibration)
    plan = build_plan([block(), (block()[0], [other]), block(FEW[1])])
    assert [*plan.models] == ["tiny", "other"]
    assert [root.model for root in plan.roots()] == ["tiny", "other"]
