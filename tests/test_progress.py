"""The lines that a person sees while a sweep runs, with made-up cells and a clock set by hand."""

import io
import itertools
import math
import time
from types import SimpleNamespace

import pytest

from core.targets import Target
from orchestrator.cluster.progress import MAX_ERRORS, MAX_LINES, WIDTH, Progress
from orchestrator.cluster.room import WAITING
from orchestrator.plan.cell import Cell, Point, Settings


def cells_of(
    models=("embedded",), methods=("magnitude", "sparsegpt"), sparsities=(0.5, 0.7), seeds=1
):
    grid = itertools.product(models, methods, ("oneshot", "iterative"), sparsities, range(seeds))
    cells = [
        Cell(
            model, Point(method, regime, Target(sparsity), seed), Settings("sparsegpt"), ("s",), ()
        )
        for model, method, regime, sparsity, seed in grid
    ]
    return {cell.id: cell for cell in cells}


def result_of(cell: Cell, status="done", perplexity=27.5, error=""):
    return {"cell": cell.id, "status": status, "perplexity": perplexity, "error": error}


def told(cells, results, monkeypatch, step=10.0, trials=1):
    """The lines of a sweep whose cells come every `step` seconds."""
    now = itertools.count(0.0, step)
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    out = io.StringIO()
    progress = Progress(cells, dict.fromkeys(cells, 5.0), out)
    for i in range(trials):
        spec = {"model": "embedded", "methods": ["magnitude", "sparsegpt"], "num_cells": 8}
        trial = SimpleNamespace(config={"trial": spec})
        progress.on_trial_start(i, [trial] * trials, trial)
    for result in results:
        progress.on_trial_result(0, [], None, result)
    return out.getvalue().splitlines()


def test_every_cell_of_a_small_sweep_has_a_line(monkeypatch):
    cells = cells_of()
    lines = told(cells, map(result_of, cells.values()), monkeypatch)
    assert lines[0] == "started  embedded: 8 cells"
    assert lines[1].split() == ["[1/8]", "magnitude", "oneshot", "0.5", "27.50", "20s", "so", "far"]
    assert [line.split()[0] for line in lines[1:]] == [f"[{i}/8]" for i in range(1, 9)]
    assert lines[3].endswith(" left") and lines[-1].split()[-2] == "in"


def test_a_cell_that_is_reported_again_is_said_once(monkeypatch):
    cells = cells_of()
    first = result_of(next(iter(cells.values())))
    assert len(told(cells, [first, first], monkeypatch)) == 2


def test_time_left_follows_the_pace_since_the_first_cell():
    cells = cells_of()
    progress = Progress(cells, dict.fromkeys(cells, 5.0), io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        now = [progress.left.start + 60.0]  # Ray takes a minute to start
        patch.setattr(time, "monotonic", lambda: now[0])
        for cell in [*cells.values()][:3]:
            progress.on_trial_result(0, [], None, result_of(cell))
            now[0] += 20.0
        # Two cells in 60 seconds since the first; five to come.
        assert progress.time_left() == "2m30s left"


@pytest.mark.parametrize("count", [200, 5000])
def test_a_large_sweep_does_not_flood_the_screen(count, monkeypatch):
    cells = cells_of(sparsities=tuple(i / 5000 for i in range(count // 4)))
    assert len(cells) == count
    lines = told(cells, map(result_of, cells.values()), monkeypatch, trials=count // 10)
    assert MAX_LINES / 2 <= len(lines) <= MAX_LINES + 1
    assert lines[-1].startswith(f"[{count}/{count}]")


def test_a_large_sweep_in_which_everything_fails_does_not_flood_it_either(monkeypatch):
    cells = cells_of(sparsities=tuple(i / 100 for i in range(50)))
    error = "the Hessian is not positive definite with damping 1; try more calibration samples"
    lost = [result_of(cell, "failed", None, error) for cell in cells.values()]
    lines = told(cells, lost, monkeypatch)
    assert sum("Hessian" in line for line in lines) == 1, "one error is said once"
    assert len(lines) <= MAX_LINES + MAX_ERRORS + 5


def test_failures_are_counted_in_the_lines_after_them(monkeypatch):
    cells = cells_of()
    first, second, *_ = cells.values()
    lines = told(cells, [result_of(first, "failed", None, "boom"), result_of(second)], monkeypatch)
    assert "failed" in lines[1] and lines[2] == "    boom"
    assert lines[3].endswith(", 1 failed")


def test_lines_fit_80_columns_whatever_the_names_and_numbers(monkeypatch):
    models = ("facebook/opt-1.3b", "/a/very/long/path/to/" + "some-model-of-ours-" * 4)
    cells = cells_of(models, sparsities=tuple(i / 1000 for i in range(300)), seeds=2)
    values = itertools.cycle([15.6, 1e9, math.inf, math.nan, 123456.0])
    results = [
        result_of(cell, "failed", None, "größer " * 60 + str(i))
        if i % 7 == 0
        else result_of(cell, perplexity=next(values))
        for i, cell in enumerate(cells.values())
    ]
    lines = told(cells, results, monkeypatch, step=400.0)
    assert max(map(len, lines)) <= WIDTH
    assert all(line.isascii() and "\x1b" not in line and "\r" not in line for line in lines)
    assert any("op..b sparsegpt iterative 0.299 s1" in line for line in lines)


def test_a_trial_that_waits_for_room_says_so(monkeypatch):
    out = io.StringIO()
    progress = Progress(cells_of(), {}, out)
    trial = SimpleNamespace(config={"trial": {"model": "a/" + "long" * 20}})
    line = "waiting for room in the cluster for 1440 min"
    progress.on_trial_result(0, [], trial, {WAITING: line})
    (said,) = out.getvalue().splitlines()
    assert said.endswith(f": {line}") and len(said) <= WIDTH and not progress.left.seen
    progress.on_trial_result(0, [], trial, {WAITING: "the network failed: " + "x" * 900})
    assert all(len(line) <= WIDTH for line in out.getvalue().splitlines())
