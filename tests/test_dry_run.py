"""A dry run tokenises small samples at most, and times this machine only for stages to run."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from without_ray import without_ray

from core.models.facts import Linear, ModelFacts
from core.texts import tokenization
from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.dry_run import matrix_lines
from orchestrator.estimate import forecast
from orchestrator.inputs import about_tokens
from orchestrator.inputs.about_tokens import NumTokens
from orchestrator.preparation import prepare, read_texts
from orchestrator.sweep import run_sweep

walk = runpy.run_path(str(Path(__file__).with_name("walked.py")))["walk"]


@pytest.fixture
def config(tiny_opt_dir, write_texts, tmp_path, monkeypatch, one_thread):
    """A dry run of a small grid with every kind of text."""
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = [
        "--models",
        str(tiny_opt_dir),
        "--methods",
        "wanda",
        "--regimes",
        "oneshot",
        "finetune",
    ]
    flags += ["--sparsities", "0.5", "--eval.texts", "test.txt", "--eval.seq-len", "32"]
    flags += ["--calibration.text", "calibration.txt", "--calibration.num-samples", "2"]
    flags += ["--calibration.seq-len", "32", "--finetune.text", "train.txt"]
    flags += ["--finetune.seq-len", "32", "--finetune.tokens", "64"]
    flags += ["--finetune.batch-tokens", "32", "--out-dir", "out", "--dry-run"]
    return parse(SweepConfig(), flags, "")


@pytest.fixture
def encoded(monkeypatch):
    """The number of characters that tokenizers were given, call by call."""
    seen: list[int] = []
    encode, encode_pieces = tokenization.encode, tokenization.encode_pieces

    def whole(text, tokenizer):
        seen.append(len(text))
        return encode(text, tokenizer)

    def in_pieces(pieces, tokenizer):
        seen.append(sum(map(len, pieces)))
        return encode_pieces(pieces, tokenizer)

    monkeypatch.setattr(tokenization, "encode", whole)
    monkeypatch.setattr(tokenization, "encode_pieces", in_pieces)
    return seen


@pytest.fixture
def timed(monkeypatch):
    """The models that were timed."""
    seen: list[str] = []

    def on_this_machine(model, cost, threads):
        seen.append(model.inputs.name)
        return cost

    monkeypatch.setattr(forecast, "on_this_machine", on_this_machine)
    return seen


def test_a_new_grid_has_a_sample_of_each_evaluated_text_tokenised(
    config, tmp_path, encoded, timed, monkeypatch, capsys
):
    monkeypatch.setattr(about_tokens, "SAMPLE_CHARS", 1000)
    text = tmp_path / "test.txt"
    text.write_text(text.read_text() * 40)
    assert run_sweep(config) == 0 and not Path("out").exists()
    special = 2  # Special tokens are asked for with one character.
    assert sum(encoded) <= 1000 + special and len(timed) == 1
    assert "  each evaluation reads about " in capsys.readouterr().out


def test_the_sample_comes_near_the_number_of_tokens(config, tmp_path, monkeypatch):
    text = tmp_path / "test.txt"
    text.write_text(text.read_text() * 40)
    monkeypatch.setattr(about_tokens, "SAMPLE_CHARS", 2000)
    sweep = prepare(config)
    (about,) = set(read_texts(sweep).num_tokens.values())
    run = replace(sweep, config=replace(config, output=replace(config.output, dry_run=False)))
    (exact,) = set(read_texts(run).num_tokens.values())
    assert about == pytest.approx(exact, rel=0.2)


def test_a_text_without_a_window_is_refused(config, tmp_path):
    (tmp_path / "test.txt").write_text("a few words only")
    with pytest.raises(ValueError, match=r"--eval.texts test.txt: has \d+ tokens, 0 windows of 32"):
        run_sweep(config)


@pytest.mark.parametrize("name", ["calibration", "train"])
def test_a_text_that_a_run_would_refuse_is_refused(config, tmp_path, name):
    text = tmp_path / f"{name}.txt"
    good = text.read_text()
    text.write_text("a few words only")
    with pytest.raises(ValueError, match=f"text {name}.txt: "):
        run_sweep(config)
    text.write_bytes(good.encode() * 40 + b"\xff\xfe")
    with pytest.raises(ValueError, match=f"text {name}.txt: .*UTF-8"):
        run_sweep(config)


def test_a_finished_store_has_nothing_tokenised_and_nothing_timed(config, encoded, timed, capsys):
    walk(replace(config, output=replace(config.output, dry_run=False)))
    encoded.clear()
    assert run_sweep(config) == 0
    said = capsys.readouterr().out
    assert "0 stages to run" in said and "GiB a worker" in said and "kept models" in said
    assert not encoded and not timed


def test_a_sweep_that_is_done_tokenises_nothing(config, encoded, capsys):
    again = replace(config, output=replace(config.output, dry_run=False))
    walk(again)
    encoded.clear()
    assert run_sweep(again) == 0 and "cells already done" in capsys.readouterr().out
    assert not encoded


HEAVY = ("datasets", "lm_eval", "sklearn", "torchvision")
"""Libraries that take a second each, and that a plan needs none of."""


def test_a_dry_run_imports_no_library_that_it_does_not_need(config, tiny_opt_dir):
    flags = ["--models", str(tiny_opt_dir), "--methods", "magnitude", "--regimes", "oneshot"]
    flags += ["--eval.texts", "test.txt", "--eval.seq-len", "32", "--out-dir", "out", "--dry-run"]
    code = (
        f"import sys; from orchestrator.cli import prune_sweep; sys.argv[1:] = {flags}; "
        f"code = prune_sweep(); print(code, [m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_what_is_estimated_is_said_to_be_about_so_much():
    assert str(NumTokens(58_958, is_exact=True)) == "58,958"
    assert str(NumTokens(58_958, is_exact=False)) == "about 59,000"
    assert str(NumTokens(1_234_567, is_exact=False)) == "about 1,200,000"


def test_matrices_are_counted_by_kind_and_those_left_out_named():
    linears = tuple(
        Linear(f"layers.{block}.{name}", 8, 8, block, name)
        for block in range(2)
        for name in ("in_proj", "out_proj")
    )
    left = {f"layers.{block}.dt_proj": "not called" for block in range(2)}
    facts = ModelFacts("m", "mamba", 2, 8, 16, 32, "float32", 512, linears, left)
    assert matrix_lines(facts) == [
        "  prunes 4 matrices: 2 in_proj, 2 out_proj",
        "  leaves out 2 matrices: 2 dt_proj (not called)",
    ]
    experts = tuple(Linear(f"layers.0.experts.{e}.up_proj", 8, 8, 0, "", 0.5) for e in range(4))
    facts = replace(facts, linears=linears[:2] + experts, left_out={"layers.0.gate": "router"})
    assert matrix_lines(facts) == [
        "  prunes 6 matrices: 1 in_proj, 1 out_proj, 4 up_proj of experts",
        "  leaves out 1 matrices: 1 gate (router)",
    ]


def test_workers_without_a_window_in_each_step_are_told(config, timed, capsys):
    def lines(workers: int, batch: int, tokens: int = 128, dry: bool = True) -> list[str]:
        resources = replace(config.resources, num_workers=workers)
        finetune = replace(config.finetune, batch_tokens=batch, tokens=tokens)
        calibration = replace(config.calibration, num_samples=workers)
        output = replace(config.output, dry_run=dry)
        asked = replace(config, calibration=calibration, finetune=finetune, resources=resources)
        with pytest.MonkeyPatch.context() as patch:
            without_ray(patch)
            assert run_sweep(replace(asked, output=output)) == 0
        out = capsys.readouterr().out.splitlines()
        told = [i for i, line in enumerate(out) if "step of training" in line]
        return [line.strip() for i in told for line in out[i : i + 2]]

    assert lines(3, 64) == [
        "a step of training has 2 windows for 3 workers (1 idle);",
        "--finetune.batch-tokens 96 gives each worker one, and changes numbers",
    ]
    assert lines(3, 96) == lines(1, 32) == []
    planned = lines(2, 32)
    assert planned[0].endswith("1 window for 2 workers (1 idle);")
    assert lines(2, 32, dry=False) == planned and lines(2, 32) == []
    # A round of two windows has none for a third worker.
    assert lines(3, 96, tokens=64) == [
        "a step of training has 2 windows for 3 workers (1 idle);",
        "only rounds of 96 tokens or more have one for each worker",
    ]
