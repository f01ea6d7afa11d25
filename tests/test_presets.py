"""The presets of published tables: offline on stand-ins under the real names, as a dry run."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import ray

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


@pytest.mark.parametrize("name", PRESETS)
def test_without_weights_one_line_says_what_to_fetch(run, monkeypatch, name):
    def unreachable(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr("core.model_source.hub_commit", unreachable)
    code, said, error = run(name)
    assert (code, said) == (2, "")
    assert error.startswith("error: --models 'facebook/opt-") and error.count("\n") == 1
    assert "hf download facebook/opt-" in error


@pytest.mark.parametrize("name", PRESETS)
def test_without_texts_one_line_says_what_to_fetch(run, monkeypatch, tiny_opt_dir, name):
    def unreachable(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr("core.texts.hub_commit", unreachable)
    code, said, error = run(name, "--models", str(tiny_opt_dir))
    assert (code, said) == (2, "")
    assert error.startswith("error: --calibration.text c4: ") and error.count("\n") == 1
    assert "fetch en/c4-train.00000-of-01024.json.gz of dataset allenai/c4" in error


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
