"""Planning as pure values: cells, shared stages, identities, what is missing, packing."""

import dataclasses

import pytest

from core.config import CalibrationConfig, FinetuneConfig, PruneConfig
from orchestrator.config import GridConfig
from orchestrator.plan.identity import canonical_json
from orchestrator.plan.inputs import CalibrationText, EvaluationText, ModelInputs, TrainingText
from orchestrator.plan.missing import dropped_cells
from orchestrator.plan.planner import Planner
from orchestrator.plan.trials import needed_stages, pack_trials

SPARSITIES = (0.3, 0.5, 0.7)


def model_inputs(name="tiny", **changes) -> ModelInputs:
    inputs = ModelInputs(
        name=name,
        identity=f"sha256:{name}",
        dtype="float32",
        training_dtype="float32",
        calibration=CalibrationText("cal", "c", 8, 16, "stream"),
        finetune=TrainingText("train", "t", 16),
        finetune_tokens=1000,
        batch_tokens=64,
        evaluations=(EvaluationText("test", "e", 16, 16),),
    )
    return dataclasses.replace(inputs, **changes)


def plan_of(finetune=None, prune=None, models=None, extras=(), **grid):
    grid = {"sparsities": SPARSITIES, "methods": ("magnitude", "sparsegpt"), **grid}
    settings = (GridConfig(**grid), prune or PruneConfig(), finetune or FinetuneConfig())
    planner = Planner(*settings, extras=extras)
    return planner.build(models or [model_inputs()])


def cells_of(plan, **wanted):
    return [c for c in plan.cells.values() if all(getattr(c, k) == v for k, v in wanted.items())]


def test_grid_has_a_cell_for_every_combination_plus_dense_and_control():
    plan = plan_of()
    assert len(cells_of(plan, regime="oneshot")) == 6
    assert len(cells_of(plan, regime="iterative")) == 6
    assert len(cells_of(plan, method="dense", regime="dense")) == 1
    # The control trains as often as the longest branch.
    assert [c.round for c in cells_of(plan, method="dense", regime="finetune")] == [1, 2, 3]


def test_an_iterative_branch_passes_through_all_lower_cells():
    plan = plan_of(methods=("magnitude",))
    low, middle, high = cells_of(plan, regime="iterative")
    assert middle.stages[: len(low.stages)] == low.stages
    assert high.stages[: len(middle.stages)] == middle.stages
    assert high.path == SPARSITIES and high.num_rounds == 3


def test_first_iterative_round_is_the_finetuned_cell():
    plan = plan_of(methods=("magnitude",))
    assert (
        cells_of(plan, regime="iterative")[0].stages
        == cells_of(plan, method="magnitude", regime="finetune")[0].stages
    )


def test_oneshot_is_the_first_stage_of_finetune():
    plan = plan_of(methods=("sparsegpt",))
    oneshot = cells_of(plan, regime="oneshot")[1]
    finetuned = cells_of(plan, method="sparsegpt", regime="finetune")[1]
    assert finetuned.stages[:-1] == oneshot.stages
    assert finetuned.before == oneshot.evaluations


def test_oneshot_magnitude_has_no_seed_and_is_computed_once():
    plan = plan_of(seeds=(0, 1))
    assert [c.seed for c in cells_of(plan, method="magnitude", regime="oneshot")] == [None] * 3
    seeds = {c.seed for c in cells_of(plan, method="sparsegpt", regime="oneshot")}
    assert seeds == {0, 1}


def test_appending_a_sparsity_keeps_all_stages():
    before, after = plan_of(), plan_of(sparsities=(*SPARSITIES, 0.9))
    assert set(before.stages) <= set(after.stages)
    assert set(before.cells) <= set(after.cells)


def test_inserting_a_sparsity_below_changes_iterative_cells_above_it():
    before, after = plan_of(), plan_of(sparsities=(0.3, 0.4, 0.5, 0.7))
    kept = {c.target.sparsity for c in cells_of(after, regime="iterative") if c.id in before.cells}
    assert kept == {0.3}
    assert all(c.id in after.cells for c in cells_of(before, regime="oneshot"))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"dampening_frac": 0.02}, {"magnitude"}),
        ({"block_size": 64}, {"magnitude"}),
    ],
)
def test_only_settings_that_a_method_reads_enter_its_identity(change, same):
    before = plan_of(regimes=("oneshot",))
    after = plan_of(regimes=("oneshot",), prune=PruneConfig(**change))
    pruned = [c for c in before.cells.values() if c.method != "dense"]
    assert {c.method for c in pruned if c.id in after.cells} == same


def test_identity_rounds_sparsities_to_six_decimals():
    first = plan_of(sparsities=(0.1 + 0.2,), regimes=("oneshot",))
    second = plan_of(sparsities=(0.3,), regimes=("oneshot",))
    assert set(first.cells) == set(second.cells)


def test_total_budget_splits_tokens_and_gives_each_target_its_branch():
    plan = plan_of(methods=("magnitude",), finetune=FinetuneConfig(budget="total"))
    for cell in cells_of(plan, method="magnitude", regime="iterative"):
        tokens = [
            plan.stages[s].fields["tokens"]
            for s in cell.stages
            if plan.stages[s].kind == "finetune"
        ]
        assert sum(tokens) == 1000
        assert len(tokens) == cell.num_rounds


def test_structured_targets_pass_through_every_n_at_the_same_m():
    plan = plan_of(sparsities=(), mask_structures=("1:4",), methods=("magnitude",))
    (cell,) = cells_of(plan, regime="iterative")
    structures = [
        plan.stages[s].fields["mask_structure"]
        for s in cell.stages
        if plan.stages[s].kind == "prune"
    ]
    assert structures == ["3:4", "2:4", "1:4"]


def test_canonical_json_refuses_what_has_no_single_text():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": float("nan")})
    for value in ({"x": {1, 2}}, [{"x": ({1: 2},)}]):
        with pytest.raises(TypeError):
            canonical_json(value)


def test_nothing_is_needed_when_all_is_stored():
    plan = plan_of()
    stored = set(plan.stages)
    assert needed_stages(plan, plan.cells.values(), stored, set()) == set()


def test_cells_whose_own_weights_were_dropped_are_found():
    plan = plan_of(methods=("magnitude",), regimes=("oneshot", "iterative"), sparsities=(0.5, 0.7))
    low, high = cells_of(plan, method="magnitude", regime="oneshot")
    manifests = {stage: {} for stage in plan.stages} | {high.stages[-1]: {"dropped": True}}
    assert dropped_cells(plan, manifests) == [high]
    needed = needed_stages(plan, [high], set(plan.stages) - {high.stages[-1]}, set())
    assert needed == {high.stages[-1]}, "its weights alone: rows and numbers are there"


def test_dropped_weights_are_needed_again_only_for_children():
    plan = plan_of(methods=("magnitude",), regimes=("oneshot", "finetune"))
    cell = cells_of(plan, method="magnitude", regime="finetune")[0]
    stored = set(plan.stages) - {cell.stages[-1], *cell.evaluations}
    needed = needed_stages(plan, [cell], stored, set())
    assert needed == {*cell.stages[1:], *cell.evaluations}
    with_prune = needed_stages(plan, [cell], stored, {cell.stages[1]})
    assert with_prune == {cell.stages[-1], *cell.evaluations}


def everything(plan):
    return {s.id for s in plan.stages.values() if s.parent is not None}


def test_one_slot_gets_one_trial_per_model_and_each_stage_once():
    plan = plan_of(models=[model_inputs(), model_inputs("small")])
    trials = pack_trials(plan, list(plan.cells.values()), everything(plan), {}, 1)
    assert [t.model for t in trials] == ["tiny", "small"]
    ids = [stage.id for trial in trials for stage in trial.stages]
    assert sorted(ids) == sorted(everything(plan))
    assert sorted(c.id for t in trials for c in t.cells) == sorted(plan.cells)


def test_many_slots_split_a_model_without_splitting_a_branch():
    plan = plan_of()
    costs = dict.fromkeys(everything(plan), 1.0)
    trials = pack_trials(plan, list(plan.cells.values()), everything(plan), costs, 100)
    assert len(trials) > 5
    ids = [stage.id for trial in trials for stage in trial.stages]
    assert len(ids) == len(set(ids)) == len(everything(plan))
    for trial in trials:
        done = {None} | {s.id for s in plan.roots()}
        for stage in trial.stages:
            assert stage.parent in done, "a parent comes before its children, in its own trial"
            done.add(stage.id)


def test_a_cell_with_all_stages_but_no_row_still_gets_a_trial():
    plan = plan_of(methods=("magnitude",))
    cell = next(iter(cells_of(plan, regime="iterative")))
    (trial,) = pack_trials(plan, [cell], set(), {}, 1)
    assert trial.cells == (cell,) and trial.stages == ()


def test_a_cell_that_only_lacks_its_row_joins_a_trial_that_runs_stages():
    plan = plan_of(methods=("magnitude",))
    low, high = cells_of(plan, regime="oneshot")[:2]
    needed = {high.stages[-1], *high.evaluations}
    (trial,) = pack_trials(plan, [low, high], needed, {}, 1)
    assert {*trial.cells} == {low, high} and {s.id for s in trial.stages} == needed


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"methods": ("wandaa",)}, "did you mean 'wanda'"),
        ({"regimes": ("one-shot",)}, "did you mean 'oneshot'"),
        ({"sparsities": (1.2,)}, "between 0 and 1"),
        ({"sparsities": (float("nan"),)}, "between 0 and 1"),
        ({"sparsities": (0.5, 0.5)}, "given twice"),
        ({"sparsities": ()}, "at least one"),
        ({"models": ()}, "at least one"),
        ({"mask_structures": ("4:4",)}, "0 < N < M"),
        ({"mask_structures": ("2-4",)}, "write N:M"),
        ({"seeds": (-1,)}, "use 0 to 2\\^63"),
        ({"num_rounds": 3}, "linear or cubic"),
    ],
)
def test_bad_grids_are_refused_in_one_line(grid, message):
    with pytest.raises(ValueError, match=message) as error:
        GridConfig(**grid)
    assert "\n" not in str(error.value)


def test_counts_are_refused_when_not_positive():
    with pytest.raises(ValueError, match="--calibration.num-samples 0"):
        CalibrationConfig(num_samples=0)
    with pytest.raises(ValueError, match="--finetune.tokens -5"):
        FinetuneConfig(tokens=-5)
