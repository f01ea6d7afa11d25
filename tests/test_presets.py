"""The presets of published tables: offline on stand-ins under the real names, as a dry run."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from core.texts.named_texts import NAMED
from orchestrator import cli

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
PRESETS = {
    # Cells: methods x targets x seeds; magnitude draws nothing; one dense cell.
    "reproduce_sparsegpt": (10, "sparsegpt oneshot 4:8", []),
    "reproduce_alps": (1 + 8 + 3 * 8 * 5, "alps oneshot 0.9 seed 4", []),
    # Also the dense model trained as often as the longest branch has rounds.
    "reproduce_prune_and_tune": (
        1 + 9 + 2 * 3 * 9,
        "sparsegpt iterative 0.9",
        ["--eval.seq-len", "128", "--eval.stride", "64"],
    ),
}


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a preset in this process; returns exit code, output, error text and the out-dir."""

    def call(name, *arguments):
        module = runpy.run_path(str(EXPERIMENTS / f"{name}.py"))
        out = tmp_path / "out"
        command = [f"{name}.py", *arguments, "--out-dir", str(out)]
        monkeypatch.setattr(sys, "argv", command)
        code = cli.main(module["PRESET"], module["__doc__"])
        said = capsys.readouterr()
        assert not out.exists() and not ray.is_initialized()
        return code, said.out, said.err

    return call


@pytest.mark.parametrize("name", PRESETS)
def test_a_dry_run_on_a_local_model_names_every_cell(run, hub_texts, tiny_opt_dir, name):
    num_cells, cell, flags = PRESETS[name]
    code, said, error = run(name, "--models", str(tiny_opt_dir), "--dry-run", *flags)
    assert (code, error) == (0, "")
    assert said.startswith(f"{num_cells} cells, 0 already done") and cell in said


@pytest.mark.parametrize("name", PRESETS)
def test_further_flags_override_the_preset(run, hub_texts, tiny_opt_dir, name):
    flags = ["--sparsities", "0.25", "--methods", "wanda", *PRESETS[name][2]]
    code, said, _ = run(name, "--models", str(tiny_opt_dir), "--dry-run", *flags)
    assert code == 0 and "wanda oneshot 0.25" in said and "magnitude" not in said


def unreachable(*_):
    raise ConnectionError("no network")


@pytest.mark.parametrize("name", PRESETS)
def test_without_weights_one_line_says_what_to_fetch(run, hub_texts, monkeypatch, name):
    monkeypatch.setattr("core.models.sources.hub_commit", unreachable)
    code, said, error = run(name)
    assert (code, said) == (2, "") and error.count("\n") == 1
    models = runpy.run_path(str(EXPERIMENTS / f"{name}.py"))["PRESET"].grid.models
    listed = f"error: --models {' '.join(models)} (no such directory): not in the hub's cache"
    assert error.startswith(listed) and error.endswith("; or give a local directory\n")
    patterns = "'*.json' --include '*.txt' --include '*.model' --include 'model*.safetensors'"
    commands = [
        command
        for model in models
        for command in (
            f"hf download {model} --include {patterns}",
            f"hf download {model} --revision refs/pr/N --include 'model*.safetensors*'",
        )
    ]
    assert f"; fetch with a network: {' && '.join(commands)} (N: on the model's page" in error


@pytest.mark.parametrize("name", PRESETS)
def test_without_texts_one_line_says_what_to_fetch(run, monkeypatch, tiny_opt_dir, name):
    monkeypatch.setattr("core.texts.sources.hub_commit", unreachable)
    code, said, error = run(name, "--models", str(tiny_opt_dir), *PRESETS[name][2])
    assert (code, said) == (2, "") and error.count("\n") == 1
    trains = name == "reproduce_prune_and_tune"
    training = ", --finetune.text wikitext2" if trains else ""
    evaluated = "wikitext2" if trains else "wikitext2 ptb c4"
    listed = f"error: --calibration.text c4{training}, --eval.texts {evaluated}: not in the hub's"
    assert error.startswith(listed)
    assert error.endswith("; or give a copy of a text's file as NAME=FILE\n")
    shards = ["en/c4-train.00000-of-01024.json.gz", "en/c4-validation.00000-of-00008.json.gz"]
    commands = [download("c4", *(shards[:1] if trains else shards))]
    splits = ("train", "test") if trains else ("test",)
    files = (f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet" for split in splits)
    commands.append(download("wikitext2", *files))
    if not trains:
        part = "validation" if name == "reproduce_alps" else "test"
        commands.append(download("ptb", f"penn_treebank/{part}/0000.parquet"))
    assert f"; fetch with a network: {' && '.join(commands)}; or give a copy" in error


def download(name: str, *files: str) -> str:
    """The command that fetches files of a named text, and not the whole data set."""
    named = NAMED[name]
    return (
        f"hf download {named.repos[0]} {' '.join(files)} --repo-type dataset "
        f"--revision {named.revision}"
    )


def test_weights_and_texts_that_are_missing_stand_in_one_line(run, monkeypatch):
    monkeypatch.setattr("core.models.sources.hub_commit", unreachable)
    monkeypatch.setattr("core.texts.sources.hub_commit", unreachable)
    code, said, error = run("reproduce_alps")
    assert (code, said) == (2, "") and error.count("\n") == 1
    assert error.startswith(
        "error: --models facebook/opt-1.3b (no such directory), --calibration.text c4, "
        "--eval.texts wikitext2 ptb c4: "
        "not in the hub's cache, and the hub does not give them (no network); fetch with a network:"
    )
    assert error.endswith("; or give a local directory or a copy of a text's file as NAME=FILE\n")


def test_two_models_of_one_content_are_refused(run, hub_texts, tiny_opt_dir, tmp_path):
    twin = shutil.copytree(tiny_opt_dir, tmp_path / "twin")
    code, _, error = run("reproduce_sparsegpt", "--models", str(tiny_opt_dir), str(twin))
    wanted = f"error: --models {twin}: is the same model as {tiny_opt_dir}; name each once\n"
    assert (code, error) == (2, wanted)


@pytest.mark.parametrize("name", PRESETS)
def test_the_script_itself_says_one_line_and_exits_2(tmp_path, name):
    done = subprocess.run(
        [sys.executable, str(EXPERIMENTS / f"{name}.py"), "--protocol", "wandaa"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "--protocol" in done.stderr and list(tmp_path.iterdir()) == []
