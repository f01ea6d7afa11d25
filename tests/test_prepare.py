"""A sweep before anything runs: what it knows of itself, and what it writes until then."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from orchestrator.cluster import connection as cluster
from orchestrator.cluster import slots
from orchestrator.out_dir import mark
from orchestrator.preparation import prepare, write_record
from orchestrator.results.record import read_record
from orchestrator.store.store import Store
from orchestrator.sweep import run_sweep

make_row = runpy.run_path(str(Path(__file__).with_name("synthetic_rows.py")))["make_row"]


@pytest.fixture
def config(two_cells, monkeypatch):
    """Two one-shot cells of a tiny model, for this machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return two_cells


def changed(config, part, **changes):
    return dataclasses.replace(
        config, **{part: dataclasses.replace(getattr(config, part), **changes)}
    )


def test_grids_have_one_name_only_where_their_rows_are_the_same(config, tmp_path):
    (tmp_path / "copy.txt").write_bytes((tmp_path / "test.txt").read_bytes())
    again = prepare(changed(config, "output", out_dir=str(tmp_path / "elsewhere")))
    others = [
        changed(config, "eval", max_windows=3),
        changed(config, "eval", seq_len=16),
        changed(config, "eval", texts=(str(tmp_path / "copy.txt"),)),  # Under another name.
        changed(config, "grid", sparsities=(0.5,)),
        changed(config, "grid", protocol="alps"),
    ]
    mine = prepare(config).id
    assert again.id == mine
    assert len({mine, *(prepare(other).id for other in others)}) == 1 + len(others)


def test_the_record_has_the_command_that_started_the_sweep(config, monkeypatch):
    sweep = prepare(config)
    mark(sweep.store)
    for script, command in (
        ("experiments/sweep_opt.py", "python experiments/sweep_opt.py --seeds 0"),
        ("/home/me/venv/bin/prune-sweep", "prune-sweep --seeds 0"),
    ):
        monkeypatch.setattr("sys.argv", [script, "--seeds", "0"])
        write_record(sweep)
        assert read_record(sweep.store, sweep.id)["command"] == command


def damaged(config):
    """Spoils a stage of the grid, whose id is returned, and one called `other`."""
    sweep = prepare(config)
    mark(sweep.store)
    wanted = next(s for s in sweep.plan.stages.values() if s.kind == "prune").id
    for stage in (wanted, "other"):
        with sweep.store.scratch.directory() as directory:
            (directory / "model.bin").write_bytes(b"weights")
            sweep.store.stages.at(stage).publish(directory, {"id": stage, "metrics": {}})
        folder = Path(sweep.store.files.join("stages", stage))
        next(folder.rglob("model.bin")).write_bytes(b"wei")
    return wanted


def test_a_dry_run_tells_of_damage_and_touches_nothing(config, capsys):
    stage, out = damaged(config), Path(config.output.out_dir)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run_sweep(changed(config, "output", dry_run=True)) == 0
    said = capsys.readouterr().out
    why = "is damaged (model.bin has 3 bytes instead of 7): to be set aside"
    assert f"  stages/{stage} {why} and computed again\n" in said
    assert f"  stages/other {why}\n" in said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.fixture
def small_cluster(monkeypatch):
    """A cluster that turns out to be too small once it is joined."""

    def refuse(resources):
        raise ValueError("--num-workers 1: needs 1 CPU cores; there are 0 CPU cores")

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(cluster, "connect", lambda: None)
    monkeypatch.setattr(slots, "slots_of_cluster", refuse)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)


@pytest.mark.usefixtures("small_cluster")
def test_a_run_sets_aside_what_is_damaged(config):
    stage, store = damaged(config), Store(config.output.out_dir)
    with pytest.raises(ValueError, match="needs 1 CPU cores"):
        run_sweep(config)
    assert {name.split("-")[0] for name in store.files.names("set-aside")} == {stage, "other"}


@pytest.mark.usefixtures("small_cluster")
def test_what_does_not_fit_a_cluster_changes_no_row(config):
    store, key = Store(config.output.out_dir), min(prepare(config).plan.row_keys())
    rows = {key: make_row(status="failed") | {"_evaluation": "e", "_interrupted": True}}
    mark(store)
    for key, row in rows.items():
        store.rows.put(key, row)
    with pytest.raises(ValueError, match="needs 1 CPU cores"):
        run_sweep(config)
    assert store.rows.read() == rows
