"""Bad input: one clear line, exit code 2, nothing written, Ray not started."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from pyarrow import ArrowInvalid

from core.checks import BadInputError
from orchestrator import cli, sweep
from orchestrator.config import OutputConfig, SweepConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs the command line in this process; returns exit code, error text and the out-dir."""

    def call(*arguments):
        out = tmp_path / "out"
        out_dir = [] if "--out-dir" in arguments else ["--out-dir", str(out)]
        monkeypatch.setattr(sys, "argv", ["sweep_opt.py", *arguments, *out_dir])
        code = cli.main(SweepConfig(), "test")
        return code, capsys.readouterr().err, out

    return call


TOTAL = ["--finetune.budget", "total", "--finetune.tokens", "1024"]
CASES = [
    (["--models", "no/such/dir/at/all"], "--models"),
    (["--models", "./nothing-here"], "--models"),
    (["--models"], "--models"),
    (["--models", "embedded", "embedded"], "given twice"),
    (["--methods", "wandaa"], "did you mean 'wanda'"),
    (["--methods"], "--methods"),
    (["--regimes", "oneshott"], "did you mean 'oneshot'"),
    (["--calibration.text", "c5"], "--calibration.text"),
    (["--finetune.text", "/no/such/file.txt"], "--finetune.text"),
    (["--eval.texts", "nothing.raw"], "--eval.texts"),
    (["--sparsities", "1.5"], "between 0 and 1"),
    (["--sparsities", "-0.1"], "between 0 and 1"),
    (["--sparsities", "nan"], "between 0 and 1"),
    (["--sparsities", "0.5", "0.5"], "given twice"),
    (["--sparsities"], "--sparsities"),
    (["--sparsities", "half"], "--sparsities"),
    (["--mask-structures", "2:7"], "not a multiple of 7"),
    (["--mask-structures", "4:4"], "0 < N < M"),
    (["--mask-structures", "3:2"], "0 < N < M"),
    (["--calibration.seq-len", "100000"], "at most 256"),
    (["--eval.seq-len", "257"], "at most 256"),
    (["--calibration.num-samples", "0"], "--calibration.num-samples"),
    (["--finetune.tokens", "-5"], "--finetune.tokens"),
    (["--finetune.tokens", "10"], "less than one window"),
    (
        [*TOTAL, "--schedule", "linear", "--num-rounds", "20", "--sparsities", "0.5"],
        "a round would have 51 tokens",
    ),
    ([*TOTAL, "--mask-structures", "2:16", "--sparsities", "0.5"], "would have 73 tokens"),
    (["--finetune.lr", "0"], "--finetune.lr"),
    (["--num-workers", "0"], "--num-workers"),
    (["--num-workers", "4096"], "with 1 CPU core each fit on the nodes"),
    (["--use-gpu", "--gpus-per-worker", "4096"], "GPUs"),
    (["--gpus-per-worker", "0.5"], "needs --use-gpu"),
    (["--eval.texts", "embedded:train"], "same text"),
    (["--finetune.text", "embedded:calibration"], "same text"),
    (["--regimes", "oneshot", "--finetune.lr", "0.1"], "no chosen regime trains"),
    (["--methods", "magnitude", "--calibration.num-samples", "4"], "reads calibration"),
    (["--methods", "wanda", "--prune.block-size", "64"], "no chosen method reads it"),
    (["--regimes", "oneshot", "--schedule", "linear"], "iterative"),
    (["--regimes", "oneshot", "--stop-perplexity", "99"], "goes on from a pruned model"),
    (["--stop-perplexity", "0.5"], "use a number above 1"),
    (["--timeout-seconds", "0"], "--timeout-seconds"),
    (["--nosuch", "1"], "--nosuch"),
]


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=lambda c: " ".join(c)[:40])
def test_bad_input_is_one_line_before_anything_happens(run, arguments, message):
    code, error, out = run(*arguments)
    assert code == 2
    assert message in error
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not out.exists() and not ray.is_initialized()


def test_an_out_dir_that_holds_something_else_is_refused(run, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    code, error, _ = run("--out-dir", str(tmp_path))
    assert code == 2 and "holds something else" in error
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_out_dir_that_cannot_be_written_is_refused(run, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    code, error, _ = run("--out-dir", str(file / "below"))
    assert code == 2 and "--out-dir" in error
    assert error.count("\n") == 1


def test_an_out_dir_of_no_known_kind_is_refused(run):
    code, error, _ = run("--out-dir", "nosuch://bucket/sweep")
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert "nosuch://bucket/sweep" in error


@pytest.mark.parametrize("error", [ArrowInvalid("no double"), ValueError("a fault of ours")])
def test_an_error_that_the_user_cannot_mend_is_not_taken_for_bad_input(run, monkeypatch, error):
    def collect(config):
        raise error

    monkeypatch.setattr(sweep, "run_sweep", collect)
    with pytest.raises(type(error)):
        run()


def ends_with(error, cause=None):
    """Return a sweep that ends with an error."""

    def sweep(config):
        raise error from cause

    return sweep


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_in_one_line(run, monkeypatch):
    monkeypatch.setattr(sweep, "run_sweep", ends_with(FULL))
    code, error, _ = run()
    assert code == 1 and error.startswith("error: --out-dir ") and error.count("\n") == 1


def test_bad_input_that_a_full_cache_causes_is_told_as_bad_input(run, monkeypatch):
    monkeypatch.setattr(sweep, "run_sweep", ends_with(BadInputError("--models a: no cache"), FULL))
    code, error, _ = run()
    assert code == 2 and error == "error: --models a: no cache\n"


def test_a_script_of_several_sweeps_ends_with_the_one_that_fills_the_disk(monkeypatch, capsys):
    monkeypatch.setattr(sweep, "run_sweep", ends_with(FULL))
    monkeypatch.setattr(sys, "argv", ["study.py"])
    done = []

    def study():
        for part in range(2):
            cli.run(SweepConfig(output=OutputConfig(dry_run=True)))
            done.append(part)
        return 0

    assert cli.guarded(study) == 1 and not done
    assert capsys.readouterr().err.startswith("error: --out-dir ")


def test_too_little_text_says_how_many_windows_there_are(run, tmp_path):
    text = tmp_path / "short.txt"
    text.write_text("a few words only")
    code, error, _ = run("--eval.texts", str(text))
    assert code == 2 and "0 windows" in error


def test_a_dry_run_writes_nothing_and_names_every_cell(run, capsys, monkeypatch, tmp_path):
    out = tmp_path / "dry"
    monkeypatch.setattr(sys, "argv", ["sweep_opt.py", "--dry-run", "--out-dir", str(out)])
    assert cli.main(SweepConfig(), "test") == 0
    text = capsys.readouterr().out
    assert text.startswith("51 cells, 0 already done")
    assert "sparsegpt iterative 0.9" in text and "GiB" in text
    assert "stages, roughly " in text and "rough times by nominal rates" in text
    assert max(map(len, text.splitlines())) <= 80
    assert not out.exists() and not ray.is_initialized()


def test_the_script_itself_says_one_line_and_exits_2(tmp_path):
    script = ROOT / "experiments" / "sweep_opt.py"
    done = subprocess.run(
        [sys.executable, str(script), "--methods", "gradient"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: --methods 'gradient'") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
