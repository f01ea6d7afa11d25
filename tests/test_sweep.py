"""A tiny sweep from flags to rows and files: once, again, and with cells made to fail.

Its trials are walked in this process; tests of the same command through Ray are marked `sweeps`.
"""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from without_ray import without_ray

from core.models.mask_files import load_masks
from orchestrator import cli
from orchestrator.config import SweepConfig
from orchestrator.results.parquet import read_rows
from orchestrator.results.schema import SCHEMA

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_opt_dir, write_texts):
    """The directory that the module's sweeps are started in, with a model and three texts."""
    directory = tmp_path_factory.mktemp("sweep")
    write_texts(directory)
    (directory / "model").symlink_to(tiny_opt_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        without_ray(patch)
        yield directory


def run_sweep(
    *extra: str, methods: tuple[str, ...] = ("magnitude", "sparsegpt")
) -> tuple[int, str]:
    """Run a sweep of some flags; return its exit code and what it printed."""
    command = [
        *("--models", "model", "--out-dir", "out", "--methods", *methods),
        *("--calibration.num-samples", "8", "--calibration.text", "calibration.txt"),
        *("--calibration.seq-len", "32", "--finetune.text", "train.txt"),
        *("--finetune.tokens", "512", "--finetune.seq-len", "32", "--finetune.batch-tokens", "128"),
        *("--eval.texts", "test.txt", "--eval.seq-len", "32", "--eval.max-windows", "8", *extra),
    ]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr(sys, "argv", ["sweep_opt.py", *command])
        return cli.main(SweepConfig(), ""), said.getvalue()


@pytest.fixture(scope="module")
def first(place):
    """The first run: 2 methods x 3 regimes x 2 sparsities, the dense model and its control."""
    code, said = run_sweep("--sparsities", "0.5", "0.7")
    assert code == 0, said


def by_cell(rows):
    return {(r["method"], r["regime"], r["sparsity"], r["round"]): r for r in rows}


def test_every_cell_has_a_row_with_the_columns_of_the_schema(place, first):
    rows = read_rows(str(place / "out" / "results.parquet"))
    further = {"environment", "dense_bytes", "sparse_bytes", "finetune_rounds"}
    assert set(rows[0]) == {*SCHEMA.names, *further}
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
    # By default the dense model learns from itself, and has nothing to learn.
    assert rows["dense", "finetune", 0.0, 2]["num_finetune_tokens"] == 0


def test_rows_know_the_perplexity_before_training_and_of_the_dense_model(place, first):
    rows = by_cell(read_rows(str(place / "out" / "results.parquet")))
    oneshot, tuned = (rows["sparsegpt", r, 0.7, 1] for r in ("oneshot", "finetune"))
    assert tuned["perplexity_before_finetune"] == oneshot["perplexity"]
    assert tuned["dense_perplexity"] == rows["dense", "dense", 0.0, 0]["perplexity"]


def test_the_same_command_again_recomputes_nothing(place, first):
    before = {p: p.stat().st_mtime_ns for p in (place / "out" / "stages").rglob("*")}
    rows = read_rows(str(place / "out" / "results.parquet"))
    code, said = run_sweep("--sparsities", "0.5", "0.7")
    assert code == 0 and "15 cells already done" in said
    assert {p: p.stat().st_mtime_ns for p in (place / "out" / "stages").rglob("*")} == before
    assert read_rows(str(place / "out" / "results.parquet")) == rows


def test_cells_that_fail_do_not_end_the_sweep_and_nothing_done_is_redone(place, first):
    before = {p.name for p in (place / "out" / "stages").iterdir()}
    grid = ("--sparsities", "0.5", "0.7", "0.8", "--finetune.lr", "1e30")
    grid = (*grid, "--finetune.objective", "next_token")
    code, said = run_sweep(*grid, methods=("sparsegpt",))
    assert code == 1, said
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
    code, said = run_sweep(*grid, methods=("sparsegpt",))
    assert code == 1 and "cells already done" in said, "failed once is enough"
