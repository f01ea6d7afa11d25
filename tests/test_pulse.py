"""The small file by which a running sweep is seen from elsewhere."""

import json
from types import SimpleNamespace

import pytest

from core.targets import Target
from orchestrator.cluster.pulse import Pulse
from orchestrator.plan.cell import Cell, Point, Settings
from orchestrator.plan.stages import Stage
from orchestrator.plan.trials import Trial
from orchestrator.plan.work import Work
from orchestrator.store.store import Store


def cell(name, *stages):
    weights, evaluations = stages[:-1], stages[-1:]
    point, settings = Point("wanda", "oneshot", Target(0.5), 0), Settings("sparsegpt")
    found = Cell("m", point, settings, weights, evaluations)
    object.__setattr__(found, "id", name)
    return found


@pytest.fixture
def pulse(tmp_path):
    """One trial: `late` comes first in the grid, `early` is finished first by the walk."""
    stages = tuple(Stage(s, Work(), "m", "wanda", None) for s in ("p1", "e1", "p2", "e2"))
    cells = (cell("late", "dense", "p1", "p2", "e2"), cell("early", "dense", "p1", "e1"))
    trial = Trial("t", "m", stages, cells)
    return Pulse(Store(str(tmp_path)), "sweep", [trial], {"late": 30.0, "early": 10.0})


def read(pulse):
    return json.loads(pulse.store.files.read_bytes("pulse", "sweep.json"))


TUNE_TRIAL = SimpleNamespace(config={"trial": {"id": "t"}})


def test_it_names_the_cell_that_the_walk_is_at(pulse):
    assert read(pulse)["running"] == []
    pulse.on_trial_start(0, [], TUNE_TRIAL)
    assert read(pulse)["running"] == ["early"]
    pulse.on_trial_result(0, [], TUNE_TRIAL, {"cell": "early"})
    assert read(pulse)["running"] == ["late"]
    assert read(pulse)["trials"] == [{"name": "m: wanda", "cells": 2, "done": 1, "now": "late"}]
    pulse.on_trial_result(0, [], TUNE_TRIAL, {"cell": "late"})
    pulse.on_trial_complete(0, [], TUNE_TRIAL)
    assert read(pulse)["running"] == read(pulse)["trials"] == []


def test_time_left_follows_the_estimated_cost_of_what_is_left(pulse):
    pulse.left.costs = {"first": 5.0, "early": 10.0, "late": 30.0}
    pulse.on_trial_result(0, [], TUNE_TRIAL, {"cell": "first"})
    assert read(pulse)["seconds_left"] is None, "Ray's start tells no pace"
    pulse.left.first = (pulse.left.first[0] - 20.0, 5.0)
    pulse.on_trial_result(0, [], TUNE_TRIAL, {"cell": "early"})
    assert read(pulse)["seconds_left"] == pytest.approx(60.0, rel=0.1)


def test_it_beats_between_cells_but_not_at_every_step(pulse):
    before = read(pulse)["seen_at"]
    pulse.on_step_end(0, [])
    assert read(pulse)["seen_at"] == before
    pulse.last -= 10.0
    pulse.on_step_end(0, [])
    assert read(pulse)["seen_at"] > before


def test_it_ends_with_the_sweep(pulse):
    pulse.on_trial_start(0, [], TUNE_TRIAL)
    pulse.on_experiment_end([])
    assert read(pulse)["ended"] and read(pulse)["running"] == []


def test_a_store_that_cannot_be_written_does_not_end_the_sweep(pulse, monkeypatch, caplog):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(pulse.store.files, "write_bytes", full)
    pulse.on_trial_start(0, [], TUNE_TRIAL)
    assert "no space left" in caplog.text
