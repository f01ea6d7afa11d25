"""The search of a whole plan, and of a sweep from flags to answers.

The sweeps' stages compute nothing: a shape gives the perplexity of each sparsity.
"""

from __future__ import annotations

import io
import math
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace

import pytest
from test_plan import cells_of, plan_of
from walked import jobs_of

from core.pruners.pruner import PruningError
from core.ranks import Ranks
from orchestrator import cli, repeat, sweep
from orchestrator.config import SweepConfig
from orchestrator.plan.kinds import Prune
from orchestrator.plan.search import asked, most_further
from orchestrator.preparation import prepare
from orchestrator.results.board import boards_of
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.found import found_on
from orchestrator.results.parquet import read_rows
from orchestrator.store.store import Store
from orchestrator.trial.walk import Walk

pytestmark = pytest.mark.usefixtures("one_thread")
DENSE = 20.0
GRID = (0.0, 0.3, 0.5, 0.7, 0.9)
MATRICES = {"names": [], "statistic": None, "errors": [], "sparsity": [0.5]}
LIMIT = 300
"""Stages that a sweep of these tests never reaches."""


def shape(sparsity: float, regime: str = "") -> float:
    """Return a perplexity that rises with the sparsity, the later where training helps."""
    factor = {"oneshot": 1.0, "finetune": 0.4, "iterative": 0.2}.get(regime, 0.0)
    return DENSE * math.exp(factor * sparsity**4 / (1 - sparsity) ** 0.7)


# Plans --------------------------------------------------------------------------------------------


def rows_of(plan, cells=None):
    """Return the rows of some cells of a plan, by default of all."""
    return {
        key: {"status": "done", "perplexity": shape(cell.target.sparsity, cell.regime)}
        for cell in cells or plan.cells.values()
        for key in cell.row_keys()
    }


def test_a_plan_asks_for_nothing_before_its_grid_is_measured():
    plan = plan_of(within=(1.1,))
    dense = cells_of(plan, regime="dense")
    assert asked(plan, {}) == asked(plan, rows_of(plan, dense)) == {}
    assert most_further(plan, {}) == 6 * len(plan.curves) == 6 * 6


def test_all_curves_ask_side_by_side_and_structures_for_nothing():
    plan = plan_of(within=(1.1,), mask_structures=("2:4",), sparsities=(0.3, 0.7, 0.9))
    (extras,) = asked(plan, rows_of(plan)).values()
    assert {(e.method, e.regime) for e in extras} == {(n.method, n.regime) for n in plan.curves}
    assert len(extras) == 6


def test_an_iterative_cell_of_a_search_leaves_the_grid_in_its_last_step():
    """Its identity depends on the grid below it, and on nothing else that was searched."""
    from orchestrator.plan.planner import Extra

    def path_of(*sparsities):
        extras = [Extra("tiny", "sparsegpt", "iterative", each) for each in sparsities]
        plan = plan_of(extras=tuple(extras))
        (found,) = (c for c in cells_of(plan, regime="iterative") if c.target.sparsity == 0.62)
        assert plan.extras == {c.id for c in plan.cells.values() if c.target.sparsity in sparsities}
        return found.path, found.id

    assert path_of(0.62) == path_of(0.51, 0.6, 0.62, 0.65)
    assert path_of(0.62)[0] == (0.3, 0.5, 0.62)


# Sweeps -------------------------------------------------------------------------------------------


class StopError(Exception):
    """The end of a process, as far as a test can play it."""


def sparsity_of(job, stage):
    """Return the sparsity that a stage's weights were pruned to."""
    while not isinstance(stage.work, Prune) and stage.parent is not None:
        stage = job.stage(stage.parent)
    return stage.work.target.sparsity if isinstance(stage.work, Prune) else 0.0


class Shaped(Walk):
    """A walk whose evaluations follow the shape; it stops after a number of stages."""

    left = LIMIT
    fails_above = 1.0

    def run_stage(self, stage):
        if Shaped.left == 0:
            raise StopError
        Shaped.left -= 1
        space, job = self.space, self.job
        sparsity = sparsity_of(job, stage)
        if sparsity > Shaped.fails_above:
            raise PruningError("no inverse")
        regimes = [cell.regime for cell in job.cells if stage.id in cell.all_stages()]
        metrics = {"seconds": 0.0, "num_tokens": 1, "dtype": "float32", "num_steps": 0}
        metrics |= {"steps_resumed": 0, "losses": [], "matrices": MATRICES}
        metrics["perplexity"] = shape(sparsity, regimes[0] if regimes else "")
        with space.store.scratch.directory() as directory:
            if stage.work.stores_weights:
                (directory / "model.safetensors").write_text(stage.id)
            record = space.record(stage, metrics) | space.keeping_of(stage)
            space.store.stages.at(stage.id).publish(directory, record)


def walk_trials(planned, texts):
    """Walk the trials of a sweep in this process."""
    for job in jobs_of(planned, texts):
        Shaped(job, planned.store, Ranks.current(), lambda metrics: None).run()
    return set(planned.held)


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_opt_dir, write_texts):
    """Return the directory that the module's sweeps are started in."""
    directory = tmp_path_factory.mktemp("search")
    write_texts(directory)
    (directory / "model").symlink_to(tiny_opt_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setattr(cli, "begin_connection", lambda config: None)
        patch.setattr(sweep, "run_missing", walk_trials)
        yield directory


def run_sweep(
    out: str, *extra: str, stages: int = LIMIT, sparsities: str = "--sparsities 0.3 0.5 0.7 0.9"
) -> tuple[int, str]:
    """Run a sweep that searches, at most so many stages; return its code and what it printed."""
    command = [
        *("--models", "model", "--out-dir", out, "--methods", "sparsegpt"),
        *sparsities.split(),
        *("--calibration.num-samples", "8", "--calibration.text", "calibration.txt"),
        *("--calibration.seq-len", "32", "--finetune.text", "train.txt"),
        *("--finetune.tokens", "512", "--finetune.seq-len", "32", "--finetune.batch-tokens", "128"),
        *("--eval.texts", "test.txt", "--eval.seq-len", "32", "--eval.max-windows", "8", *extra),
    ]
    Shaped.left, said = stages, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr(sys, "argv", ["sweep_opt.py", *command])
        return cli.main(SweepConfig(), ""), said.getvalue()


def answers_of(out: str):
    """Return the answers of a finished sweep by regime and ratio."""
    (board,) = boards_of(curves_from_rows(read_rows(f"{out}/results.parquet")))
    return {(each.line.regime, each.ratio): each.crossing for each in found_on(board)}


WITHIN = ("--within", "1.1", "1.5")


@pytest.fixture(scope="module")
def whole(place):
    """Return the answers of a sweep that nobody stopped, its rows, and what it printed."""
    code, said = run_sweep("whole", *WITHIN)
    assert code == 0, said
    return answers_of("whole"), {*Store("whole").rows.read()}, said


def test_a_sweep_finds_where_each_curve_crosses_each_ratio(whole):
    answers, rows, said = whole
    assert len(answers) == 3 * 2
    for (regime, ratio), found in answers.items():
        assert found.value is not None and len(found.asked) <= 6
        assert shape(found.low, regime) <= ratio * DENSE < shape(found.high, regime)
        assert found.high - found.low <= 0.01 + 1e-9
    value = answers["iterative", 1.5].value
    assert "highest sparsity within" in said and f"{value:.3f}" in said


def test_the_rows_tell_which_cells_only_the_search_has_asked_for(whole):
    rows = read_rows("whole/results.parquet")
    asked_for = {s for found in whole[0].values() for s in found.asked}
    assert {row["sparsity"] for row in rows if row["searched"]} == asked_for
    assert all(row["within"] == [1.1, 1.5] for row in rows)
    iterative = [row for row in rows if row["searched"] and row["regime"] == "iterative"]
    assert {tuple(row["path"][:-1]) for row in iterative} == {(0.3, 0.5, 0.7), (0.3, 0.5)}


def test_the_same_command_again_computes_nothing_and_says_the_same(whole):
    code, said = run_sweep("whole", *WITHIN, stages=0)
    assert code == 0 and answers_of("whole") == whole[0]
    assert {*Store("whole").rows.read()} == whole[1]
    assert said.splitlines()[-8:-4] == whole[2].splitlines()[-8:-4]


def test_a_search_that_is_stopped_again_and_again_ends_in_the_same_answers(whole):
    names = set()
    for _ in range(40):
        try:
            code, _ = run_sweep("stopped", *WITHIN, stages=7)
            break
        except StopError:
            names |= {*Store("stopped").files.names("sweeps")}
    assert code == 0 and answers_of("stopped") == whole[0]
    assert {*Store("stopped").rows.read()} == whole[1]
    assert len(names) == 1, "the cells that come in do not change the sweep's name"


def test_an_answer_does_not_depend_on_the_other_ratios(whole):
    run_sweep("alone", "--within", "1.5")
    alone = answers_of("alone")
    assert alone == {key: found for key, found in whole[0].items() if key[1] == 1.5}
    assert {*Store("alone").rows.read()} < whole[1]


def test_blocks_with_other_sparsities_share_the_search_of_a_curve(place, whole):
    """Iterative cells of another grid have another path, and so a curve of their own."""
    (place / "blocks.yaml").write_text("- sparsities: [0.3, 0.7]\n- sparsities: [0.9, 0.5]\n")
    code, said = run_sweep("blocks", *WITHIN, sparsities="--grid blocks.yaml")
    assert code == 0, said
    (board,) = boards_of(curves_from_rows(read_rows("blocks/results.parquet")))
    found = found_on(board)
    names = {each.line.name: each.line.regime for each in found}
    assert [*names][2:] == [f"sparsegpt · iterative · sparsities {s}" for s in STEPS]
    for each in found:
        crossing, expected = each.crossing, whole[0][each.line.regime, each.ratio]
        if each.line.regime == "iterative":
            assert crossing.next is None and crossing.low <= expected.high
            assert expected.low <= (crossing.high or 1.0), "its grid may end within the ratio"
        else:
            assert crossing == expected
    again, said = run_sweep("blocks", *WITHIN, stages=0, sparsities="--grid blocks.yaml")
    assert again == 0, said


STEPS = ("0.3+0.7", "0.5+0.9")


def test_curves_that_share_a_cell_are_both_searched(place):
    """The first round of an iterative cell is the same under both budgets."""
    flags = ("--within", "1.01", "--regimes", "iterative", "--finetune.budget", "round", "total")
    code, said = run_sweep("budgets", *flags)
    assert code == 0, said
    (board,) = boards_of(curves_from_rows(read_rows("budgets/results.parquet")))
    found = {each.line.name: each.crossing for each in found_on(board)}
    names = {f"sparsegpt · iterative · finetune.budget {each}" for each in ("round", "total")}
    assert {*found} == names and all(0.3 < each.low < 0.5 for each in found.values())
    assert {each.value for each in found.values()} == {found[min(names)].value}


def test_cells_that_fail_count_as_above_and_the_sweep_goes_on(place, monkeypatch):
    monkeypatch.setattr(Shaped, "fails_above", 0.66)
    code, said = run_sweep("failing", "--within", "2.5", "--regimes", "finetune")
    found = answers_of("failing")["finetune", 2.5]
    assert code == 1 and found.value is not None and found.low <= 0.66 < found.high
    assert found.high in found.lost
    monkeypatch.setattr(Shaped, "fails_above", 1.0)
    code, said = run_sweep("failing", "--within", "2.5", "--regimes", "finetune", "--retry-failed")
    assert code == 0, said
    found = answers_of("failing")["finetune", 2.5]
    assert shape(found.low, "finetune") <= 2.5 * DENSE < shape(found.high, "finetune")


def test_weights_that_a_search_goes_on_from_are_dropped_when_it_ends(place):
    code, said = run_sweep("dropped", *WITHIN, "--keep", "none", "--regimes", "iterative")
    manifests = Store("dropped").stages.manifests().values()
    assert code == 0 and not [m["id"] for m in manifests if m["files"]], said


def test_a_dry_run_says_how_many_cells_the_search_may_add(place, whole):
    assert "adds at most 36 cells" in run_sweep("new", *WITHIN, "--dry-run")[1]
    assert "adds at most 0 cells" in run_sweep("whole", *WITHIN, "--dry-run")[1]


def test_a_cell_of_a_search_is_found_again_by_its_row(whole):
    store = Store("whole")
    rows = [row for row in store.rows.read().values() if row["sparsity"] not in GRID]
    for regime in ("oneshot", "iterative"):
        row = next(row for row in rows if row["regime"] == regime)
        config = SweepConfig()
        place = replace(config.output, out_dir="again", from_row=row["cell_id"])
        settings = repeat.recorded_settings(replace(config, output=place), row, set(), "again")
        assert row["cell_id"] in prepare(settings, repeated=store).plan.cells


@pytest.mark.parametrize("flags", [("--within", "1"), ("--within", "0.5"), ("--within", "inf")])
def test_ratios_that_the_dense_model_itself_is_not_within_are_refused(place, flags):
    code, said = run_sweep("refused", *flags)
    assert code == 2 and said.startswith("error: --within") and not (place / "refused").exists()
