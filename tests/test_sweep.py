"""A tiny sweep through real Ray, as a user runs it: once, again, and with cells made to fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from core.models.mask_files import load_masks
from orchestrator.results.parquet import read_rows
from orchestrator.results.schema import SCHEMA

pytestmark = pytest.mark.sweeps

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "sweep_opt.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_opt_dir, write_texts):
    """A place for the module's sweeps: a model, three texts, a home of their own."""
    directory = tmp_path_factory.mktemp("sweep")
    write_texts(directory)
    (directory / "model").symlink_to(tiny_opt_dir)
    return directory


def run_sweep(
    place: Path,
    *extra: str,
    out: str = "out",
    methods: tuple[str, ...] = ("magnitude", "sparsegpt"),
) -> subprocess.CompletedProcess:
    command = [
        *(sys.executable, str(SCRIPT), "--models", str(place / "model"), "--out-dir", out),
        *("--methods", *methods, "--calibration.num-samples", "8"),
        *("--calibration.text", str(place / "calibration.txt"), "--calibration.seq-len", "32"),
        *("--finetune.text", str(place / "train.txt"), "--finetune.tokens", "512"),
        *("--finetune.seq-len", "32", "--finetune.batch-tokens", "128", "--eval.texts"),
        *(str(place / "test.txt"), "--eval.seq-len", "32", "--eval.max-windows", "8", *extra),
    ]
    return run_script(place, *command)


def from_row(place: Path, *flags: str) -> subprocess.CompletedProcess:
    return run_script(place, sys.executable, str(SCRIPT), *flags)


def run_script(place: Path, *command: str) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "HOME": str(place / "home"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=280
    )


@pytest.fixture(scope="module")
def first(place):
    """The first run: 2 methods x 3 regimes x 2 sparsities, the dense model and its control."""
    (place / "home").mkdir()
    done = run_sweep(place, "--sparsities", "0.5", "0.7")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def by_cell(rows):
    return {(r["method"], r["regime"], r["sparsity"], r["round"]): r for r in rows}


def test_every_cell_has_a_row_with_the_columns_of_the_schema(place, first):
    rows = read_rows(str(place / "out" / "results.parquet"))
    assert set(rows[0]) == {*SCHEMA.names, "environment"}
    assert len(rows) == 1 + 2 + 2 * 3 * 2
    assert {row["status"] for row in rows} == {"done"}
    assert (place / "out" / "curves.html").stat().st_size > 1_000_000


def test_measured_sparsity_is_exact_in_the_stored_models(place, first):
    for row in read_rows(str(place / "out" / "results.parquet")):
        if row["stage_dir"] is None or row["method"] == "dense":
            continue
        (file,) = (place / "out" / row["stage_dir"]).rglob("model.safetensors")
        weights = load_file(file)
        for name, mask in load_masks(file.with_name("masks.safetensors")).items():
            assert int((~mask).sum()) == round(row["sparsity"] * mask.numel())
            assert not weights[f"{name}.weight"][~mask].any()
        assert row["measured_sparsity"] == row["num_pruned"] / row["num_prunable"]


def test_every_stage_with_weights_loads_as_an_ordinary_model(place, first):
    row = by_cell(read_rows(str(place / "out" / "results.parquet")))[
        "sparsegpt", "iterative", 0.7, 2
    ]
    (config,) = (place / "out" / row["stage_dir"]).rglob("config.json")
    model = AutoModelForCausalLM.from_pretrained(config.parent)
    assert model.dtype == torch.float32
    assert model.generate(torch.tensor([[2, 20, 21]]), max_new_tokens=2).shape == (1, 5)


def test_training_tokens_count_the_whole_history(place, first):
    rows = by_cell(read_rows(str(place / "out" / "results.parquet")))
    assert rows["magnitude", "oneshot", 0.5, 1]["num_finetune_tokens"] == 0
    assert rows["magnitude", "finetune", 0.7, 1]["num_finetune_tokens"] == 512
    assert rows["magnitude", "iterative", 0.7, 2]["num_finetune_tokens"] == 1024
    assert rows["dense", "finetune", 0.0, 2]["num_finetune_tokens"] == 1024


def test_rows_know_the_perplexity_before_training_and_of_the_dense_model(place, first):
    rows = by_cell(read_rows(str(place / "out" / "results.parquet")))
    oneshot, tuned = (rows["sparsegpt", r, 0.7, 1] for r in ("oneshot", "finetune"))
    assert tuned["perplexity_before_finetune"] == oneshot["perplexity"]
    assert tuned["dense_perplexity"] == rows["dense", "dense", 0.0, 0]["perplexity"]


def test_the_same_command_again_recomputes_nothing(place, first):
    before = {p: p.stat().st_mtime_ns for p in (place / "out" / "stages").rglob("*")}
    rows = read_rows(str(place / "out" / "results.parquet"))
    again = run_sweep(place, "--sparsities", "0.5", "0.7")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "15 cells already done" in again.stdout
    assert {p: p.stat().st_mtime_ns for p in (place / "out" / "stages").rglob("*")} == before
    assert read_rows(str(place / "out" / "results.parquet")) == rows


def test_cells_that_fail_do_not_end_the_sweep_and_nothing_done_is_redone(place, first):
    before = {p.name for p in (place / "out" / "stages").iterdir()}
    grid = ("--sparsities", "0.5", "0.7", "0.8", "--finetune.lr", "1e30")
    done = run_sweep(place, *grid, methods=("sparsegpt",))
    assert done.returncode == 1, done.stdout + done.stderr
    rows = read_rows(str(place / "out" / "results.parquet"))
    mine = by_cell(row for row in rows if row["in_current_grid"])
    assert mine["sparsegpt", "oneshot", 0.8, 1]["status"] == "done"
    failed = mine["sparsegpt", "finetune", 0.5, 1]
    assert failed["status"] == "failed" and "--finetune.lr" in failed["error"]
    assert mine["sparsegpt", "iterative", 0.7, 2]["status"] == "not_run"
    new = {p.name for p in (place / "out" / "stages").iterdir()} - before
    assert len(new) == 2, "one prune and one evaluate stage at 0.8 are all that is new and done"
    old = [row for row in rows if not row["in_current_grid"]]
    assert all(row["status"] == "done" for row in old), "rows of the first grid are kept"
    again = run_sweep(place, *grid, methods=("sparsegpt",))
    assert again.returncode == 1 and "cells already done" in again.stdout, "failed once is enough"


def test_a_row_is_repeated_bit_by_bit(place, first):
    table = read_rows(str(place / "out" / "results.parquet"))
    rows = by_cell(table)
    # Another learning rate failed at the same place of the grid.
    row = by_cell(r for r in table if r["status"] == "done")["sparsegpt", "iterative", 0.7, 2]
    done = from_row(place, "--from-row", row["cell_id"][:16], "--out-dir", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "under the same circumstances" in done.stdout
    assert f"perplexity {row['perplexity']!r}, now {row['perplexity']!r}: equal bits" in done.stdout
    assert "weights: equal bits" in done.stdout
    (repeat,) = (place / "out" / "repeats").iterdir()
    kinds = [
        json.loads((stage / "manifest.json").read_text())["kind"]
        for stage in (repeat / "stages").iterdir()
    ]
    # Two rounds and the evaluations behind the row; nothing was taken from the first run.
    assert sorted(kinds) == ["evaluate"] * 2 + ["finetune"] * 2 + ["prune"] * 2
    again = by_cell(read_rows(str(place / "out" / "results.parquet")))
    assert again == rows
