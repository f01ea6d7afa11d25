"""Names of cells: from a row, from a record and from a plan."""

import runpy
from pathlib import Path

import pytest

from core.targets import Target
from orchestrator.plan.cell import Cell, Point, Settings
from orchestrator.results.names import CellName

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, control = _synthetic["make_row"], _synthetic["control"]


@pytest.mark.parametrize(
    ("row", "short", "title"),
    [
        (make_row(sparsity=0.7), "wanda oneshot 0.7", "wanda · oneshot · sparsity 0.7"),
        (make_row(mask_structure="2:4"), "wanda oneshot 2:4", "wanda · oneshot · 2:4"),
        (make_row(method="dense", regime="dense", sparsity=0.0), "dense dense", "dense"),
        (control(2, 25.0), "dense finetune round 2", "dense, trained alike"),
    ],
)
def test_a_cell_is_named_by_method_regime_and_target(row, short, title):
    assert (CellName.of_row(row).short, CellName.of_row(row).title) == (short, title)


def test_the_full_name_has_the_model_and_a_seed_if_there_is_one():
    assert CellName.of_row(make_row(seed=1)).full == "facebook/opt-125m wanda oneshot 0.5 seed 1"
    assert CellName.of_row(make_row(seed=None)).full == "facebook/opt-125m wanda oneshot 0.5"


def test_a_planned_cell_and_its_row_have_one_name():
    point = Point("alps", "finetune", Target(0.5, "2:4"), 3)
    cell = Cell("m", point, Settings("sparsegpt"), ("s",), (), round=1, num_rounds=1)
    known = {"model": "m", "method": "alps", "regime": "finetune", "seed": 3, "round": 1}
    row = make_row(mask_structure="2:4", **known)
    assert CellName.of_cell(cell) == CellName.of_row(row)
