"""An out-dir as somebody sees it while rows appear."""

import json
import runpy
import threading
from pathlib import Path

import pytest

from orchestrator.page.watched import Watched

_stored = runpy.run_path(str(Path(__file__).with_name("stored_sweep.py")))
StoredSweep = _stored["StoredSweep"]
CELLS = [{"sparsity": s, "perplexity": 30 + 100 * s} for s in (0.3, 0.5, 0.7)]


@pytest.fixture
def sweep(tmp_path):
    return StoredSweep(tmp_path / "out", CELLS)


def test_a_directory_without_a_sweep_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no sweep there; name the --out-dir of one") as error:
        Watched(str(tmp_path))
    assert "\n" not in str(error.value)


def test_rows_appear_change_and_go_away(sweep):
    sweep.finish(0)
    seen = Watched(sweep.store.root)
    first = seen.refresh()
    assert [row["sparsity"] for row in seen.rows()] == [0.3]
    assert seen.refresh() == first, "nothing is new"
    sweep.finish(1, 2)
    assert seen.refresh() != first
    assert sorted(row["sparsity"] for row in seen.rows()) == [0.3, 0.5, 0.7]
    sweep.finish(1, status="failed", error="boom", perplexity=None)
    seen.refresh()
    assert [row["status"] for row in seen.rows()].count("failed") == 1
    sweep.store.files.delete("rows", f"{sweep.key(sweep.rows[1])}.json")
    seen.refresh()
    assert sorted(row["sparsity"] for row in seen.rows()) == [0.3, 0.7]


def test_rows_below_a_uri_are_read_several_at_a_time(sweep, monkeypatch):
    seen, both = Watched(sweep.store.root), threading.Barrier(2)
    monkeypatch.setattr(seen.store.files, "is_local", False)
    read = seen.store.files.try_read

    def try_read(folder, name):
        if folder == "rows":
            both.wait(60)
        return read(folder, name)

    monkeypatch.setattr(seen.store.files, "try_read", try_read)
    sweep.finish(0, 1)
    seen.refresh()
    assert sorted(row["sparsity"] for row in seen.rows()) == [0.3, 0.5]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{", b"[]"])
def test_a_row_that_cannot_be_read_is_left_out(sweep, content):
    sweep.finish(0)
    sweep.store.files.write_bytes(content, "rows", "bad.json")
    assert [row["sparsity"] for row in Watched(sweep.store.root).rows()] == [0.3]


def test_notes_beside_the_sweep_are_part_of_its_page(sweep):
    assert Watched(sweep.store.root).part().notes == ""
    sweep.store.files.write_bytes(b"# What I saw\n\xff", "notes.md")
    assert Watched(sweep.store.root).part().notes == "# What I saw\n\ufffd"


def test_task_results_appear_when_they_come(tmp_path):
    sweep = StoredSweep(tmp_path / "out", CELLS[:1], eval={"tasks": ["tiny"]})
    sweep.finish(0, stage_id="s1")
    seen = Watched(sweep.store.root)
    first = seen.refresh()
    assert "task:tiny:acc" not in seen.rows()[0]
    for name in ("tiny", "large", "huge"):
        manifest = {"id": name, "files": {}, "kind": "tasks", "parent": "s1", "label": name}
        manifest |= {"fields": {"limit": None}, "results": {"acc": 0.4}}
        data = json.dumps(manifest).encode()
        sweep.store.files.write_bytes(data, "stages", name, "manifest.json")
    second = seen.refresh()
    assert second != first
    assert [seen.rows()[0][f"task:{name}:acc"] for name in ("tiny", "large", "huge")] == [0.4] * 3
    assert seen.refresh() == second


def test_the_sweeps_own_published_values_are_shown_where_they_can_be_read(tmp_path, caplog):
    own = tmp_path / "own.csv"
    head = "model,method,mask_structure,sparsity,eval_text,perplexity,std,num_seeds,protocol,source"
    own.write_text(f"{head}\nm,wanda,,0.5,wikitext2,33.25,,1,sparsegpt,measured here\n")
    sweep = StoredSweep(tmp_path / "out", CELLS, output={"published": str(own)})
    published = Watched(sweep.store.root).published
    assert published is not None and published[0].source == "measured here"
    own.unlink()
    assert Watched(sweep.store.root).published is None
    assert "own.csv: cannot be read" in caplog.text
    assert Watched(StoredSweep(tmp_path / "plain", CELLS).store.root).published is None


def test_progress_names_what_is_done_failed_running_and_waiting(sweep):
    sweep.finish(0)
    sweep.finish(1, status="failed", error="no positive definite Hessian", perplexity=None)
    sweep.beat(2)
    progress = Watched(sweep.store.root).progress()
    assert progress["running"]
    assert progress["note"].startswith("1 of 3 cells done, 1 failed, 1 running, about 3m")
    assert progress["cells"] == [
        ("facebook/opt-125m wanda oneshot 0.7 seed 0", "running", ""),
        ("facebook/opt-125m wanda oneshot 0.5 seed 0", "failed", "no positive definite Hessian"),
    ]


@pytest.mark.parametrize("pulse", [None, {"ago": 3600.0}, {"ended": True}])
def test_a_sweep_that_stopped_is_not_said_to_run(sweep, pulse):
    sweep.finish(0)
    if pulse is not None:
        sweep.beat(1, **pulse)
    progress = Watched(sweep.store.root).progress()
    assert not progress["running"]
    assert progress["note"].startswith("1 of 3 cells done, 2 waiting. Not running")
    assert "its command again goes on" in progress["note"]


def test_a_pulse_that_changes_is_alive_whatever_its_clock_says(sweep):
    sweep.beat(1, ago=7200.0)
    seen = Watched(sweep.store.root)
    assert not seen.progress()["running"]
    sweep.beat(1, ago=7190.0)
    assert seen.progress()["running"]


def test_a_finished_sweep_says_only_that(sweep):
    sweep.finish(0, 1, 2)
    progress = Watched(sweep.store.root).progress()
    assert (progress["note"], progress["cells"]) == ("3 of 3 cells done.", [])


def test_rows_of_an_earlier_grid_are_marked(sweep):
    sweep.finish(0, 1, 2)
    del sweep.record["cells"][0]
    sweep.write_record()
    rows = Watched(sweep.store.root).rows()
    assert {row["sparsity"] for row in rows if row["in_current_grid"]} == {0.5, 0.7}
