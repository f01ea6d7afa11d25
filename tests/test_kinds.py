"""Stage kinds: one class each, one table, one runner; a further kind needs nothing else."""

import dataclasses
from dataclasses import dataclass

import pytest

from core.checks import BadInputError
from core.config import FinetuneConfig, PruneConfig
from orchestrator.config import GridConfig
from orchestrator.plan.inputs import EvaluationText, ModelInputs
from orchestrator.plan.kinds import KINDS, kind_of
from orchestrator.plan.planner import Planner
from orchestrator.plan.stages import Stage
from orchestrator.plan.trials import needed_stages, pack_trials
from orchestrator.plan.work import Work
from orchestrator.trial.runners import RUNNERS


@dataclass(frozen=True)
class Speed(Work):
    """A further kind: looks at weights, and its numbers depend on the device."""

    kind = "speed"
    circumstances = ("device",)

    batch: int

    def fields(self):
        return {"version": 1, "batch": self.batch}


def a_plan():
    grid = GridConfig(methods=("magnitude",), regimes=("oneshot",), sparsities=(0.5,))
    text = EvaluationText("e", "e", 16, 16)
    inputs = ModelInputs("embedded", "m", "float32", "float32", None, None, 0, 0, (text,))
    planner = Planner(grid, PruneConfig(), FinetuneConfig())
    return planner.build([inputs], {"device": "cpu"})


def test_the_table_names_each_kind_as_its_class_does():
    assert {name: work.kind for name, work in KINDS.items()} == {name: name for name in KINDS}


def test_every_kind_that_runs_has_a_runner_and_no_other():
    assert {work for work in KINDS.values() if work.runs_in != "nowhere"} == set(RUNNERS)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_a_frozen_dataclass(name):
    assert dataclasses.is_dataclass(KINDS[name])
    assert KINDS[name].__dataclass_params__.frozen


def test_a_stored_kind_of_another_version_is_refused_in_one_line():
    with pytest.raises(BadInputError, match="stage abc is of kind 'newer'") as error:
        kind_of({"id": "abc", "kind": "newer"})
    assert "\n" not in str(error.value)


def test_circumstances_enter_the_identity_and_the_fields_of_kinds_that_name_them():
    cpu, gpu = (Stage.of(Speed(1), "m", "dense", None, {"device": d}) for d in ("cpu", "cuda"))
    assert cpu.id != gpu.id
    assert cpu.fields == {"version": 1, "batch": 1, "device": "cpu"}


def test_other_kinds_do_not_depend_on_circumstances():
    plan = a_plan()
    for stage in plan.stages.values():
        again = Stage.of(stage.work, stage.model, stage.method, stage.parent, {"device": "cuda"})
        assert again.id == stage.id


def test_a_stage_that_only_looks_at_weights_is_run_by_its_cells_trial():
    plan = a_plan()
    cell = list(plan.cells.values())[-1]
    speed = plan.add_stage(Speed(1), cell.model, cell.method, cell.stages[-1])
    looked = dataclasses.replace(cell, looks=(speed,))
    assert looked.id == cell.id
    stored = set(plan.stages) - {speed}
    needed = needed_stages(plan, [looked], stored, stored)
    assert needed == {speed}
    (trial,) = pack_trials(plan, [looked], needed, {}, 1)
    assert [stage.id for stage in trial.stages] == [speed] and trial.cells == (looked,)


def test_weights_that_were_dropped_are_computed_again_for_a_stage_that_looks_at_them():
    plan = a_plan()
    cell = list(plan.cells.values())[-1]
    speed = plan.add_stage(Speed(1), cell.model, cell.method, cell.stages[-1])
    looked = dataclasses.replace(cell, looks=(speed,))
    assert needed_stages(plan, [looked], set(plan.stages) - {speed}, set()) == {
        cell.stages[-1],
        speed,
    }
