"""Repetition of a cell: what counts as the same result, and what is said of it."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from types import SimpleNamespace

import pytest
from without_ray import without_ray

from core.config import CalibrationConfig
from orchestrator import cli
from orchestrator import sweep as sweeps
from orchestrator.config import GridConfig, ResourceConfig, SweepConfig
from orchestrator.plan.identity import row_key
from orchestrator.repeat import Outcome, compare_cell, recorded_path, recorded_settings
from orchestrator.store.rows import Rows
from orchestrator.store.store import Store

CELL = SimpleNamespace(id="c" * 32, stages=("root", "s1"), evaluations=("e1",))


def write(root, perplexity, regime="oneshot", sparsity=0.5, seeds=(0,), digest="a", **environment):
    """A store with one cell's row, its evaluation and its weights' hash."""
    store = Store(str(root))
    row = {
        "model": "m",
        "method": "sparsegpt",
        "regime": regime,
        "sparsity": sparsity,
        "mask_structure": None,
        "round": 1,
        "num_finetune_tokens": 64,
        "eval_text": "wikitext2",
        "eval_seq_len": 32,
        "eval_stride": 32,
        "status": "done",
    }
    for seed in seeds:
        cell = CELL.id if seed == 0 else f"other{seed}"
        # Seeds of other runs count too: what else their settings asked for does not matter.
        mine = {"perplexity": perplexity + seed, "seed": seed, "config": json.dumps([seed])}
        store.rows.put(row_key(cell, "e1"), row | mine)
    around = {"torch_version": "2", "num_workers": 1, "machine": "x", "threads": 2} | environment
    files = {"model.safetensors": {"sha256": digest, "size": 1}}
    for stage, held in (("e1", {}), ("s1", files)):
        manifest = {"id": stage, "files": held, "environment": around}
        store.files.write_bytes(json.dumps(manifest).encode(), "stages", stage, "manifest.json")
    return store


def said(capsys, store, again):
    code = compare_cell(CELL, store, again)
    return code, capsys.readouterr().out


def test_equal_bits(tmp_path, capsys):
    code, text = said(capsys, write(tmp_path / "a", 30.25), write(tmp_path / "b", 30.25))
    assert code == 0 and "under the same circumstances" in text
    assert "perplexity 30.25, now 30.25: equal bits" in text and "weights: equal bits" in text


def test_only_the_rows_of_the_cell_are_read(tmp_path, capsys, monkeypatch):
    stores = write(tmp_path / "a", 30.0), write(tmp_path / "b", 30.0)
    monkeypatch.setattr(Rows, "read", lambda *_: 1 / 0)
    assert said(capsys, *stores)[0] == 0


def test_without_missing_tasks_no_manifest_is_read():
    class Done:
        missing_tasks = staticmethod(lambda: [])  # It has nothing else.

    assert sweeps.run_tasks(Done()) == 0  # type: ignore[arg-type]


def test_under_the_same_circumstances_a_millionth_passes(tmp_path, capsys):
    store = write(tmp_path / "a", 30.0)
    code, text = said(capsys, store, write(tmp_path / "b", 30.00001, digest="b"))
    assert code == 0 and "differs by 3.3e-07 (1e-06 passes)" in text
    assert "weights: other bits" in text
    code, text = said(capsys, store, write(tmp_path / "c", 30.0001))
    assert code == 1 and "differs by 3.3e-06 (only 1e-06 passes)" in text


@pytest.mark.parametrize(
    ("sparsity", "now", "code"),
    [(0.6, 30.05, 0), (0.6, 30.1, 1), (0.7, 30.5, 0), (0.7, 30.7, 1)],
)
def test_another_number_of_workers_may_differ_a_little(tmp_path, capsys, sparsity, now, code):
    store = write(tmp_path / "a", 30.0, sparsity=sparsity)
    found, text = said(capsys, store, write(tmp_path / "b", now, num_workers=2))
    assert found == code and "num workers 1 then, 2 now" in text


def test_trained_cells_may_differ_as_much_as_seeds_do(tmp_path, capsys):
    store = write(tmp_path / "a", 30.0, regime="iterative", seeds=(0, 1))
    assert said(capsys, store, write(tmp_path / "b", 30.9, machine="y"))[0] == 0
    assert said(capsys, store, write(tmp_path / "c", 31.1, machine="y"))[0] == 1
    alone = write(tmp_path / "d", 30.0, regime="iterative")
    code, text = said(capsys, alone, write(tmp_path / "e", 40.0, machine="y"))
    assert code == 0 and "not judged" in text, "one seed has no spread"


def test_seeds_that_trained_on_more_say_nothing(tmp_path, capsys):
    store = write(tmp_path / "a", 30.0, regime="iterative", seeds=(0, 1))
    key = row_key("other1", "e1")
    store.rows.put(key, store.rows.read()[key] | {"num_finetune_tokens": 128})
    code, text = said(capsys, store, write(tmp_path / "b", 40.0, machine="y"))
    assert code == 0 and "not judged" in text


@pytest.mark.parametrize("changed", [{"micro_batch_tokens": 64}, {"ray_version": "3"}])
def test_the_circumstances_of_every_stage_count(tmp_path, capsys, changed):
    store, again = write(tmp_path / "a", 30.0), write(tmp_path / "b", 30.0001)
    manifest = store.stages.at("s1").manifest()
    manifest["environment"] |= changed
    store.files.write_bytes(json.dumps(manifest).encode(), "stages", "s1", "manifest.json")
    code, text = said(capsys, store, again)
    assert code == 0 and f"{next(iter(changed)).replace('_', ' ')} " in text


def test_what_failed_now_or_has_no_weights_is_said(tmp_path, capsys):
    store, again = write(tmp_path / "a", 30.0), write(tmp_path / "b", 30.0)
    key = row_key(CELL.id, "e1")
    again.rows.put(key, again.rows.read()[key] | {"status": "failed", "error": "no memory"})
    again.stages.drop_weights("s1")
    code, text = said(capsys, store, again)
    assert code == 1 and "failed now: no memory" in text and "weights: not kept" in text


def test_infinite_and_undefined_perplexities_can_be_equal():
    assert Outcome("t", math.inf, math.inf, 1e-6).passes
    assert Outcome("t", math.nan, math.nan, 1e-6).passes
    assert not Outcome("t", 30.0, math.nan, 1e-6).passes
    assert not Outcome("t", math.inf, 30.0, 1e-6).passes


def test_settings_come_back_from_json():
    config = SweepConfig(
        grid=GridConfig(models=("a", "b"), mask_structures=("2:4",), seeds=(0, 1)),
        calibration=CalibrationConfig(num_samples=4),
    )
    assert SweepConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    older = json.loads(json.dumps(config.to_dict()))
    del older["output"]["from_row"], older["calibration"]["sampling"]
    assert SweepConfig.from_dict(older) == config
    older["prune"]["shape"] = 3
    with pytest.raises(ValueError, match=r"--prune.shape 3: was recorded by another version"):
        SweepConfig.from_dict(older)


def test_resources_of_the_command_line_win_over_recorded_ones():
    recorded = SweepConfig(resources=ResourceConfig(num_workers=2, micro_batch_tokens=64))
    row = {"config": json.dumps(recorded.to_dict()), "model": "b"}
    given = SweepConfig(resources=ResourceConfig(num_workers=3, cpus_per_worker=1))
    found = recorded_settings(given, row, {"from-row", "num-workers"}, "place")
    wanted = dataclasses.replace(recorded.resources, num_workers=3)
    assert found.resources == wanted and found.grid.models == ("b",)
    assert (found.output.out_dir, found.output.from_row) == ("place", None)


# Through the command line, the walk of trials in this process instead of Ray's workers ----------


@pytest.fixture
def command(monkeypatch, capsys, tmp_path, tiny_opt_dir, write_texts):
    """Runs `sweep_opt.py` with the given flags; returns exit code, output and error text."""
    write_texts(tmp_path)

    without_ray(monkeypatch)
    monkeypatch.chdir(tmp_path)

    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["sweep_opt.py", *flags, "--out-dir", "out"])
        code = cli.main(SweepConfig(), "")
        return code, *capsys.readouterr()

    grid = ["--methods", "wanda", "--regimes", "iterative", "--sparsities", "0.5", "0.75"]
    texts = ["--calibration.text", "calibration.txt", "--finetune.text", "train.txt"]
    texts += ["--eval.texts", "test.txt"]
    sizes = [
        "--calibration.num-samples",
        "4",
        "--finetune.tokens",
        "256",
        "--eval.max-windows",
        "4",
    ]
    for section in ("calibration", "finetune", "eval"):
        sizes += [f"--{section}.seq-len", "32"]
    code, _, error = call("--models", str(tiny_opt_dir), *grid, *texts, *sizes)
    assert code == 0, error
    return call


def test_a_cell_computed_anew_has_equal_bits(command, tmp_path, one_thread):
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    row = next(
        r
        for r in Store("out").rows.read().values()
        if (r["sparsity"], r["regime"]) == (0.75, "iterative")
    )
    code, said, _ = command("--from-row", row["cell_id"][:12])
    assert code == 0 and said.count("equal bits") == 2, said
    assert "under the same circumstances" in said and f"now {row['perplexity']!r}" in said
    assert all(path.read_bytes() == data for path, data in before.items())
    kinds = [
        json.loads(manifest.read_text())["kind"]
        for manifest in (tmp_path / "out" / "repeats").glob("*/stages/*/manifest.json")
    ]
    # Two rounds, and evaluations before and after the last: nothing was taken from the store.
    assert sorted(kinds) == ["evaluate"] * 2 + ["finetune"] * 2 + ["prune"] * 2


def test_a_text_that_the_settings_do_not_know_is_said_not_to_be_repeated(command, one_thread):
    store = Store("out")
    row = next(r for r in store.rows.read().values() if r["regime"] == "dense")
    other = {"eval_text": "other.txt", "_evaluation": "e2", "finished_at": "2000"}
    store.rows.put(row_key(row["cell_id"], "e2"), row | other)
    code, said, _ = command("--from-row", row["cell_id"])
    assert code == 0 and said.count("equal bits") == 1
    assert "other.txt: not repeated" in said


def test_a_row_that_says_something_else_is_found_out(command, one_thread):
    store = Store("out")
    key, row = next((k, r) for k, r in store.rows.read().items() if r["regime"] == "dense")
    store.rows.put(key, row | {"perplexity": row["perplexity"] * 1.0001})
    code, said, _ = command("--from-row", row["cell_id"])
    assert code == 1 and "(only 1e-06 passes)" in said


def test_settings_that_lead_elsewhere_now_are_refused(command, tmp_path, one_thread):
    row = next(r for r in Store("out").rows.read().values() if r["regime"] == "iterative")
    (tmp_path / "calibration.txt").write_text("another text " * 400, encoding="utf-8")
    code, said, error = command("--from-row", row["cell_id"])
    assert (code, said) == (2, "") and error.count("\n") == 1
    assert "lead to another cell now" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--from-row", "ffffffff"], "no such cell"),
        (["--from-row", ""], "a value is empty"),
        (["--from-row", "0", "--sparsities", "0.5"], "--from-row takes it from the recorded row"),
    ],
)
def test_a_row_that_cannot_be_repeated_is_refused_in_one_line(command, flags, message, one_thread):
    code, said, error = command(*flags)
    assert (code, said) == (2, "") and error.startswith("error: --") and error.count("\n") == 1
    assert message in error


def test_a_model_with_a_relative_name_is_found_from_another_folder(tmp_path, monkeypatch):
    store, path = Store(str(tmp_path / "out")), tmp_path / "m" / "llama"
    path.mkdir(parents=True)
    local = {"name": "m/llama", "path_or_repo": str(path), "revision": None, "identity": "a"}
    on_hub = {"name": "org/m", "path_or_repo": "org/m", "revision": "b", "identity": "b"}
    record = {"sources": {"m/llama": local, "org/m": on_hub}}
    store.files.write_bytes(json.dumps(record).encode(), "sweeps", "a.json")
    monkeypatch.chdir(tmp_path)
    assert recorded_path(store, "m/llama") == "m/llama"
    monkeypatch.chdir("/")
    assert recorded_path(store, "m/llama") == str(path)
    assert recorded_path(store, "org/m") == "org/m"


def test_the_embedded_model_keeps_its_name_which_its_texts_follow(tmp_path):
    store = Store(str(tmp_path))
    source = {"path_or_repo": str(tmp_path), "revision": None}
    record = json.dumps({"sources": {"embedded": source, "other": source}}).encode()
    store.files.write_bytes(record, "sweeps", "a.json")
    assert recorded_path(store, "embedded") == "embedded"
    assert recorded_path(store, "other") == str(tmp_path)
