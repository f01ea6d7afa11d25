"""Facts that stages recorded, as the page gets them: from manifests, and where there are none."""

import runpy
from pathlib import Path

import pytest

from orchestrator.results.details import details_of
from orchestrator.results.numbers import MAX_LOSSES, thinned

make_row = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))["make_row"]
NAMES = [f"model.layers.{i}.mlp.{kind}" for i in (0, 1) for kind in ("up", "down")]


def prune(parent, errors=(0.1, 0.2, 0.3, 0.4), sparsity=(0.5,) * 4):
    matrices = {"names": NAMES, "errors": [*errors], "sparsity": [*sparsity]}
    metrics = {"matrices": {**matrices, "statistic": "Hessian"}}
    return {"kind": "prune", "parent": parent, "metrics": metrics}


def train(parent, losses=(3.0, 2.5), **more):
    metrics = {"num_tokens": 1024, "losses": [*losses], "steps_resumed": 0}
    metrics |= {"num_steps": len(losses), **more}
    return {"kind": "finetune", "parent": parent, "metrics": metrics}


def test_short_curves_stay_as_they_are_and_long_ones_become_means():
    assert thinned([3.0, 2.0]) == [3.0, 2.0]
    assert thinned([1.0, 3.0, 5.0, 7.0, 9.0], most=2) == [3.0, 8.0]
    assert len(thinned([1.0] * 10_001)) <= MAX_LOSSES
    assert thinned([]) == []


def test_a_row_knows_its_last_prune_stage_and_all_its_training():
    manifests = {
        "p1": prune("dense"),
        "t1": train("p1"),
        "p2": prune("t1", errors=(0.5,) * 4, sparsity=(0.6, 0.8, 0.7, 0.7)),
        "t2": train("p2", losses=[2.0]),
    }
    rows = [make_row(stage_id="t2"), make_row(stage_id="p1"), make_row(stage_id="gone")]
    found = details_of(rows, manifests.get)
    assert found["stages"] == {"t2": ("p2", ["t1", "t2"]), "p1": ("p1", [])}
    assert found["names"] == [NAMES]
    assert found["layers"]["p1"]["errors"] == [0.1, 0.2, 0.3, 0.4]
    assert found["layers"]["p1"]["sparsity"] == 0.5, "written once where all are equal"
    assert found["layers"]["p2"]["sparsity"] == [0.6, 0.8, 0.7, 0.7]
    assert found["losses"]["t2"] == {"tokens": 1024, "resumed": 0.0, "values": [2.0]}


def test_a_resumed_round_says_how_much_came_before():
    manifests = {"t": train("dense", steps_resumed=3, num_steps=12, losses=[2.0] * 9)}
    assert details_of([make_row(stage_id="t")], manifests.get)["losses"]["t"]["resumed"] == 0.25


def test_other_grids_are_left_out_and_no_stage_is_read_twice():
    asked = []

    def manifest(stage):
        asked.append(stage)
        return {"p": prune("dense"), "t": train("p")}.get(stage)

    rows = [make_row(stage_id=s, seed=i) for i, s in enumerate(("t", "p", "t"))]
    rows.append(make_row(stage_id="other", in_current_grid=False))
    details_of(rows, manifest)
    assert sorted(asked) == ["dense", "p", "t"]


@pytest.mark.parametrize(("stages", "points"), [(1, 200), (4_000, 50), (100_000, 20)])
def test_a_page_of_many_trainings_has_fewer_points_of_each(stages, points):
    manifests = {str(i): train("dense", losses=[1.0] * 400) for i in range(stages)}
    rows = ({"stage_id": str(i), "in_current_grid": True} for i in range(stages))
    found = details_of(rows, manifests.get)
    assert len(found["losses"]["0"]["values"]) == points
