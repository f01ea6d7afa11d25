"""A real sweep through Ray, looked at while it runs, then tracked, exported and taken from."""

import importlib.util
import os
import re
import shlex
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from transformers import AutoModelForCausalLM, AutoTokenizer
from without_ray import without_ray

from orchestrator import browse, cli
from orchestrator.config import SweepConfig
from orchestrator.results.parquet import read_rows

pytestmark = [pytest.mark.sweeps, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "sweep_opt.py"
NUM_ROWS = 1 + 1 + 2 * 2 * 2
"""The dense model, its control, and 2 methods x 2 regimes x 2 sparsities."""


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_opt_dir, write_texts):
    directory = tmp_path_factory.mktemp("browsed")
    write_texts(directory)
    (directory / "model").symlink_to(tiny_opt_dir)
    (directory / "home").mkdir()
    return directory


def environment(place):
    known = {"HOME": str(place / "home"), "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    known |= {"MLFLOW_TRACKING_URI": f"file:{place}/mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"}
    known |= {"PYTHONPATH": str(SCRIPT.parents[1])}
    return {n: v for n, v in os.environ.items() if n != "RAY_ADDRESS"} | known


def start(place, *command):
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=place,
        env=environment(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def sweep_command():
    tracked = ["--trackers", "mlflow"] if importlib.util.find_spec("mlflow") else []
    return [
        *(str(SCRIPT), "--models", "model", "--out-dir", "out", "--keep", "none", *tracked),
        *("--methods", "magnitude", "sparsegpt", "--regimes", "oneshot", "finetune"),
        *("--sparsities", "0.5", "0.7", "--calibration.num-samples", "8"),
        *("--calibration.text", "calibration.txt", "--calibration.seq-len", "32"),
        *("--finetune.text", "train.txt", "--finetune.tokens", "512", "--eval.max-windows", "8"),
        *("--finetune.seq-len", "32", "--finetune.batch-tokens", "128"),
        *("--eval.texts", "test.txt", "--eval.seq-len", "32"),
    ]


@pytest.fixture(scope="module")
def seen(place, browser):
    """Rows and note of the page, read twice a second while the sweep ran."""
    sweep = start(place, *sweep_command())
    while not (place / "out" / "sweep-store.json").exists():
        assert sweep.poll() is None, sweep.communicate()[0]
        time.sleep(0.2)
    server = start(place, "-m", "orchestrator.browse", "out", "--port", "0")
    try:
        url = next(m[1] for line in server.stdout if (m := re.match(r"open (http\S+)", line)))
        browser.errors()  # Those of earlier pages are not of this one.
        browser.call("/url", {"url": url})
        looks = []
        note = "return document.getElementById('note').textContent"
        while sweep.poll() is None:
            looks.append((len(browser.table()), browser.run(note)))
            time.sleep(0.5)
        said = sweep.communicate()[0]
        assert sweep.returncode == 0, said
        end = time.monotonic() + 60
        while not looks[-1][1].endswith("cells done.") and time.monotonic() < end:
            time.sleep(0.5)
            looks.append((len(browser.table()), browser.run(note)))
        assert browser.errors() == []
        yield looks
    finally:
        for process in (sweep, server):
            if process.poll() is None:
                process.terminate()
                process.communicate()
        browser.call("/url", {"url": "about:blank"})


@pytest.fixture
def run(place, capsys, monkeypatch):
    """`run(main, *flags)` calls a command's `main` in `place`: its exit code, output and errors."""
    without_ray(monkeypatch)
    monkeypatch.chdir(place)

    def call(main, *flags):
        monkeypatch.setattr(sys, "argv", ["command", *flags])
        return main(), *capsys.readouterr()

    return call


def sweep():
    return cli.main(SweepConfig(), "")


def a_cell(place):
    rows = read_rows(str(place / "out" / "results.parquet"))
    wanted = ("sparsegpt", "finetune", 0.7)
    return next(r for r in rows if (r["method"], r["regime"], r["sparsity"]) == wanted)


def test_the_open_page_gains_rows_while_the_sweep_runs(seen):
    numbers = [number for number, _ in seen]
    assert numbers == sorted(numbers) and numbers[-1] == NUM_ROWS
    assert len(set(numbers)) > 2, f"rows did not come one after another: {numbers}"
    during = " ".join(note for _, note in seen)
    assert " running" in during and " waiting" in during and re.search(r"about \d+\S* left", during)
    assert seen[-1][1] == f"{NUM_ROWS} of {NUM_ROWS} cells done."


def records(path):
    """The messages of a TFRecord file: length, its checksum, message, its checksum."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield data[at + 12 : at + 12 + length]
        at += length + 16


def test_tensorboard_has_the_perplexity_of_every_cell(place, seen):
    files = list((place / "out" / "ray").rglob("events.out.tfevents.*"))
    values = [
        value.simple_value
        for file in files
        for record in records(file)
        for value in Event.FromString(record).summary.value
        if value.tag == "ray/tune/perplexity"
    ]
    rows = read_rows(str(place / "out" / "results.parquet"))
    assert sorted(values) == pytest.approx(sorted(row["perplexity"] for row in rows), rel=1e-5)


def test_mlflow_has_a_run_for_each_trial(place, seen, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow: pip install -e '.[mlflow]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient(f"file:{place}/mlruns")
    experiment = client.get_experiment_by_name("prune-sweep")
    runs = client.search_runs([experiment.experiment_id])
    methods = " ".join(run.data.params["trial/methods"] for run in runs)
    assert "magnitude" in methods and "sparsegpt" in methods
    assert all(run.data.metrics["perplexity"] > 1 for run in runs)


def test_a_model_that_was_not_kept_is_had_by_the_command_that_get_names(place, seen, run):
    row = a_cell(place)
    code, _, error = run(browse.main, "out", "--get", row["cell_id"][:12], "taken")
    assert code == 2 and error.startswith("error: --get ") and error.count("\n") == 1
    assert "its weights were not kept; compute them again: python " in error
    script, *flags = shlex.split(error.split("again: python ")[1])
    assert script == str(SCRIPT)
    code, said, error = run(sweep, *flags)
    assert code == 0, said + error
    code, said, _ = run(browse.main, "out", "--get", row["cell_id"][:12], "taken")
    assert code == 0 and f"sparsity {row['measured_sparsity']:.6g}, perplexity " in said, said
    model = AutoModelForCausalLM.from_pretrained(place / "taken")
    tokenizer = AutoTokenizer.from_pretrained(place / "taken")
    ids = tokenizer("ka lo", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=3, min_new_tokens=3).shape[1] == ids.shape[1] + 3
    assert a_cell(place)["perplexity"] == row["perplexity"], "the same bits again"


def test_export_writes_tables_of_a_real_sweep(place, seen, run):
    code, said, error = run(browse.main, "out", "--export")
    assert code == 0, said + error
    assert "sparsegpt finetune" in (place / "out" / "export" / "tables.md").read_text()


def test_trackers_that_are_not_installed_are_refused_before_anything_runs(place, run):
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    flags = [word for word in sweep_command()[1:] if word not in ("--trackers", "mlflow")]
    flags[flags.index("out")] = "never"
    code, said, error = run(sweep, *flags, "--trackers", "wandb")
    assert code == 2 and said == ""
    assert error == "error: --trackers wandb: is not installed; pip install -e '.[wandb]'\n"
    assert not (place / "never").exists()
