import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.results.board import boards_of
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.schema import key_of

_synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))
make_row, sweep_rows = _synthetic["make_row"], _synthetic["sweep_rows"]
iterative, control = _synthetic["iterative"], _synthetic["control"]
TOKENS = _synthetic["TOKENS"]


def only_curve(rows, **options):
    (curve,) = curves_from_rows(rows, **options)
    return curve


def test_a_sweep_gives_a_curve_for_each_method_regime_and_structure():
    curves = curves_from_rows(sweep_rows())
    # Each model: 4 methods x 3 regimes x (unstructured, 2:4), dense and its control.
    assert len(curves) == 2 * (4 * 3 * 2 + 2)
    assert len({(c.model, c.method, c.regime, c.structure) for c in curves}) == len(curves)
    assert {len(c.points) for c in curves if c.method != "dense" and not c.structure} == {7}


def test_points_ascend_and_hold_their_rows():
    rows = [make_row(sparsity=s, seed=seed) for s in (0.9, 0.3, 0.5) for seed in (1, 0)]
    curve = only_curve(rows)
    assert [p.sparsity for p in curve.points] == [0.3, 0.5, 0.9]
    kept = {key for p in curve.points for key in p.rows}
    assert kept == {key_of(row) for row in rows}


def test_seeds_are_averaged_arithmetically_with_the_sample_deviation():
    rows = [make_row(seed=i, perplexity=v) for i, v in enumerate((40.0, 41.0, 45.0))]
    (point,) = only_curve(rows).points
    assert point.perplexity == pytest.approx(42.0)
    assert point.std == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert (point.num_seeds, point.status) == (3, "done")


def test_one_seed_has_no_deviation():
    (point,) = only_curve([make_row(seed=None)]).points
    assert (point.std, point.num_seeds) == (None, 1)


@pytest.mark.parametrize(
    "difference",
    [
        {"model": "other"},
        {"method": "sparsegpt"},
        {"method_settings": '{"dampening_frac": 0.1}'},
        {"regime": "finetune"},
        {"schedule": "cubic"},
        {"budget": "total"},
        {"mask_structure": "2:4"},
        {"calibration_text": "wikitext2"},
        {"calibration_tokens": 8192},
        {"calibration_seq_len": 512},
        {"protocol": "prune-and-tune"},
        {"eval_text": "ptb"},
        {"eval_seq_len": 1024},
        {"eval_stride": 512},
        {"num_eval_tokens": 12_288},
    ],
)
def test_rows_that_differ_in_more_than_seed_and_sparsity_are_on_two_curves(difference):
    assert len(curves_from_rows([make_row(), make_row(**difference)])) == 2


def test_a_failed_cell_is_a_point_without_a_perplexity():
    rows = [make_row(sparsity=0.3), make_row(sparsity=0.5, status="failed", error="no memory")]
    lost = only_curve(rows).points[1]
    assert (lost.perplexity, lost.num_seeds, lost.status) == (None, 0, "failed")
    assert lost.rows == (key_of(rows[1]),)


def test_a_failed_seed_shows_beside_the_mean_of_the_others():
    rows = [make_row(seed=0, perplexity=40.0), make_row(seed=1, status="failed", error="boom")]
    (point,) = only_curve(rows).points
    assert (point.perplexity, point.num_seeds, point.status) == (40.0, 1, "failed")
    assert point.missing == (1,) and len(point.rows) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_perplexity_that_is_not_finite_is_named_and_left_out_of_the_mean(value):
    rows = [make_row(seed=0, perplexity=40.0), make_row(seed=1, perplexity=value)]
    (point,) = only_curve(rows).points
    assert (point.perplexity, point.num_seeds, point.status) == (40.0, 1, "non-finite")
    assert point.missing == (1,) and point.values == ((0, 40.0),)
    (alone,) = only_curve(rows[1:]).points
    assert (alone.perplexity, alone.status) == (None, "non-finite")


def test_the_worst_status_of_the_seeds_is_the_points():
    states = ("done", "not_run", "stopped", "failed")
    for count in range(1, 5):
        rows = [make_row(seed=i, status=status) for i, status in enumerate(states[:count])]
        assert only_curve(rows).points[0].status == states[count - 1]


def test_a_cell_that_failed_early_joins_the_curve_of_its_siblings():
    lost = make_row(sparsity=0.7, status="failed", eval_seq_len=None, calibration_tokens=None)
    assert lost["num_eval_tokens"] is None
    assert len(only_curve([make_row(), lost]).points) == 2


def test_a_cell_that_failed_early_joins_nothing_where_siblings_disagree():
    rows = [make_row(num_eval_tokens=10), make_row(num_eval_tokens=20)]
    assert len(curves_from_rows([*rows, make_row(sparsity=0.7, status="failed")])) == 3


def test_a_seed_run_twice_counts_once_the_done_and_newest_row():
    old = make_row(perplexity=50.0, finished_at="2026-01-01T00:00:00+00:00", cell_id="a")
    new = make_row(perplexity=40.0, finished_at="2026-01-02T00:00:00+00:00", cell_id="b")
    lost = make_row(status="failed", finished_at="2026-01-03T00:00:00+00:00", cell_id="c")
    (point,) = only_curve([new, lost, old]).points
    assert (point.perplexity, point.num_seeds, point.status) == (40.0, 1, "done")


def test_rows_outside_the_current_grid_are_drawn_on_demand_only():
    rows = [make_row(), make_row(sparsity=0.7, in_current_grid=False)]
    assert [p.sparsity for p in only_curve(rows).points] == [0.5]
    assert [p.sparsity for p in only_curve(rows, all_grids=True).points] == [0.5, 0.7]


def test_iterative_rows_of_another_path_are_not_drawn():
    rows = [iterative(0.3), iterative(0.3, 0.4), iterative(0.3, 0.4, 0.5), iterative(0.3, 0.7)]
    assert [p.sparsity for p in only_curve(rows).points] == [0.3, 0.4, 0.5]


def test_schedules_with_a_branch_for_each_target_keep_every_target():
    rows = [
        iterative(0.15, 0.3, schedule="linear"),
        iterative(0.25, 0.5, schedule="linear"),
    ]
    assert [p.sparsity for p in only_curve(rows).points] == [0.3, 0.5]


def test_control_stands_at_the_sparsity_with_the_same_training():
    rows = [iterative(0.3), iterative(0.3, 0.5), iterative(0.3, 0.5, 0.7, status="failed")]
    rows += [control(1, 26.0), control(2, 25.0), control(3, 24.0)]
    (tuned,) = [c for c in curves_from_rows(rows) if c.is_control]
    found = [(p.sparsity, p.perplexity) for p in tuned.points]
    assert found == [(0.3, 26.0), (0.5, 25.0), (0.7, 24.0)]


def test_another_kind_of_training_is_a_curve_with_a_control_of_its_own():
    distill = {"finetune_settings": '{"distill": {"mix": 0.5}}'}
    rows = [
        iterative(0.3),
        control(1, 26.0),
        iterative(0.3, **distill),
        control(1, 24.0, **distill),
    ]
    curves = curves_from_rows(rows)
    assert len(curves) == 4
    for settings, perplexity in ((None, 26.0), (distill["finetune_settings"], 24.0)):
        (tuned,) = [c for c in curves if c.is_control and c.settings.training == settings]
        assert [p.perplexity for p in tuned.points] == [perplexity]


def test_control_of_a_total_budget_is_level():
    total = {"budget": "total", "num_finetune_tokens": TOKENS}
    rows = [iterative(0.3, **total), iterative(0.3, 0.5, **total), control(1, 25.0, **total)]
    (tuned,) = [c for c in curves_from_rows(rows) if c.is_control]
    assert [(p.sparsity, p.perplexity) for p in tuned.points] == [(0.3, 25.0), (0.5, 25.0)]


def test_control_without_iterative_cells_goes_with_the_fine_tuned_ones():
    rows = [make_row(regime="finetune", sparsity=s, num_finetune_tokens=TOKENS) for s in (0.3, 0.5)]
    rows += [make_row(sparsity=0.9), control(1, 25.0, seed=0), control(1, 27.0, seed=1)]
    (tuned,) = [c for c in curves_from_rows(rows) if c.is_control]
    assert [(p.sparsity, p.perplexity) for p in tuned.points] == [(0.3, 26.0), (0.5, 26.0)]


def test_the_order_of_rows_does_not_matter():
    rows = sweep_rows(sparsities=(0.3, 0.9), seeds=(0, 2))
    assert curves_from_rows(rows) == curves_from_rows(rows[::-1])


def test_rows_are_not_changed():
    rows = [make_row(), iterative(0.3), control(1, 25.0)]
    before = [dict(row) for row in rows]
    boards_of(curves_from_rows(rows))
    assert rows == before


def test_curves_redraw_without_ray():
    code = "import sys; import orchestrator.results.curves; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
