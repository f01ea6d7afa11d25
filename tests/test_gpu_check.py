"""The check for machines with a GPU, as far as a CPU shows it: rows, limits, files."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HARNESSES = Path(__file__).resolve().parents[1] / "experiments" / "harnesses"
BENCHES = HARNESSES.parent / "benches"

CRASHES = """
import os
from gpu_check.findings import Finding, Skipped

def fine(place):
    return Finding("all well", {"rehearsal": place.rehearsal})

def raises(place):
    raise ValueError("no such thing")

def skips(place):
    raise Skipped("nothing to see")

def breaks(place):
    finding = Finding("1.5 %", {"change": 0.015})
    finding.require(False, "off by more than 1 %")
    return finding

def dies(place):
    print("last words", flush=True)
    os._exit(7)

CASES = {"fine": fine, "raises": raises, "skips": skips, "breaks": breaks, "dies": dies}
CASES["after"] = fine
"""
LEAVES = """
import os, subprocess

def dies(place):
    left = subprocess.Popen(["sleep", "600"], start_new_session=True)
    with open("PLACE", "w") as file:
        file.write(str(left.pid))
    os._exit(7)

CASES = {"dies": dies}
"""
HANGS = "import time\nCASES = {'hangs': lambda place: time.sleep(600)}\n"


@pytest.fixture
def check(monkeypatch):
    """The package of the check; its modules import each other by name."""
    monkeypatch.syspath_prepend(str(BENCHES))
    monkeypatch.syspath_prepend(str(HARNESSES))
    import gpu_check.parts
    import gpu_check.processes

    return gpu_check


@pytest.fixture
def run_part(check, tmp_path, monkeypatch):
    """`run_part(content, limit, seconds)`: the rows of a part of that content, by case."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(content, limit=60.0, seconds=300.0):
        (tmp_path / "part_of_a_test.py").write_text(content)
        part = check.parts.Part("test", "part_of_a_test", "A part of a test", limit)
        settings = check.processes.Settings(
            "cpu", "smallest", tmp_path / "parts", time.monotonic() + seconds
        )
        return {row.case: row for row in check.processes.run_part(part, settings)}

    return run


def test_errors_broken_bounds_and_a_dead_process_are_rows_and_the_rest_runs(run_part):
    rows = run_part(CRASHES)
    assert {case: row.status for case, row in rows.items()} == {
        "fine": "passed",
        "raises": "failed",
        "skips": "skipped",
        "breaks": "failed",
        "dies": "failed",
        "after": "passed",
    }
    assert rows["fine"].figures == {"rehearsal": True}
    assert rows["raises"].text == "ValueError: no such thing"
    assert rows["breaks"].text == "off by more than 1 % (1.5 %)"
    assert rows["dies"].text == "its process ended with exit code 7: last words"


def test_a_case_that_hangs_ends_at_its_limit(run_part):
    row = run_part(HANGS, limit=1.0)["hangs"]
    assert row.status == "failed" and row.text.startswith("no end within")


def test_what_a_dead_process_has_started_is_ended_with_it(run_part, tmp_path):
    rows = run_part(LEAVES.replace("PLACE", str(tmp_path / "pid")))
    assert rows["dies"].text.startswith("its process ended with exit code 7")
    assert not is_running(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_check_and_its_running_part(tmp_path, number):
    command = [sys.executable, str(HARNESSES / "check_gpu.py"), "--device", "cpu"]
    command += ["--sizes", "smallest", "--parts", "prune", "train", "--out-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as check:
        while not (family := psutil.Process(check.pid).children(recursive=True)):
            assert check.poll() is None
            time.sleep(0.01)
        check.send_signal(number)
        said, error = check.communicate(timeout=60)
    assert (check.returncode, error.startswith(b"stopped; ")) == (130, True), said + error
    assert not any(is_running(process.pid) for process in family)


def is_running(pid):
    """True if a process runs; one that has ended may wait for its parent to ask."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_part_that_cannot_be_imported_is_one_row(run_part):
    (row,) = run_part("import no_such_module").values()
    assert row.status == "failed" and "No module named 'no_such_module'" in row.text


def test_nothing_starts_once_the_time_is_over(run_part):
    (row,) = run_part(HANGS, seconds=-1).values()
    assert row.status == "not_run"


def test_the_command_writes_a_table_of_80_columns_a_file_and_a_page(tmp_path):
    command = [sys.executable, str(HARNESSES / "check_gpu.py"), "--device", "cpu"]
    command += ["--sizes", "smallest", "--parts", "environment", "--out-dir", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rehearsal" in done.stdout and "3 passed" in done.stdout
    rows_printed = done.stdout[: done.stdout.index("3 passed")].splitlines()[1:]
    assert max(map(len, rows_printed)) <= 80
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["rehearsal"] and [row["case"] for row in found["rows"]] == [
        "device",
        "libraries",
        "products",
    ]
    page = (tmp_path / "gpu.html").read_text()
    assert "A rehearsal" in page and "libraries" in page and "src=" not in page


@pytest.mark.usefixtures("one_thread")
def test_a_method_on_the_device_is_compared_with_the_cpu(check, tmp_path):
    from gpu_check import embedded, pruning, sizes

    place = sizes.Place("cpu", sizes.SIZES["smallest"], tmp_path)
    finding = pruning.CASES["wanda"](place)
    assert finding.broken == [] and finding.figures["same_masks"] == 1
    assert finding.figures["num_zeros"] == finding.figures["wanted_zeros"]
    one = embedded.Outcome({}, {"a": 1}, 20.0, set(), losses=[1.0])
    other = embedded.Outcome({}, {"a": 2}, 20.1, set(), losses=[1.01])
    broken = embedded.compared(one, other).broken
    assert [words.split()[0] for words in broken] == ["first", "masks", "perplexity", "the", "loss"]


@pytest.mark.usefixtures("one_thread")
def test_masks_that_training_finds_are_compared_with_the_cpu(check, tmp_path):
    from gpu_check import sizes, training

    place = sizes.Place("cpu", sizes.SIZES["smallest"], tmp_path)
    finding = training.CASES["elsa 2:4"](place)
    assert finding.broken == [] and finding.figures["same_masks"] == 1
    assert finding.figures["num_zeros"] == finding.figures["wanted_zeros"] > 0
    assert finding.figures["loss_change"] == 0


@pytest.mark.usefixtures("one_thread")
def test_decoding_with_dense_and_sparse_kernels_is_compared(check, tmp_path, monkeypatch):
    import torch
    from gpu_check import sizes, token_rates

    place = sizes.Place("cpu", sizes.SIZES["smallest"], tmp_path)
    finding = token_rates.CASES["opt-125m decoding"](place)
    assert finding.broken == [] and set(finding.figures) == {"dense_seconds", "tokens_a_second"}
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda weight: weight)
    assert token_rates.CASES["opt-125m decoding"](place).figures["difference"] == 0
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda weight: 2 * weight)
    assert "sparse kernels differ" in token_rates.CASES["opt-125m decoding"](place).broken[0]


def test_the_column_loop_prunes_as_the_solver_does():
    import torch

    from core.config import PruneConfig
    from core.pruners import make_pruner
    from core.pruners.hessian import Hessian
    from core.targets import Target

    loop = runpy.run_path(str(BENCHES / "column_loop.py"))["prune"]
    generator = torch.Generator().manual_seed(0)
    statistic = Hessian(160, torch.device("cpu"))
    statistic.update(torch.randn(640, 160, generator=generator))
    weight = torch.randn(24, 160, generator=generator)
    for target in (Target(0.5), Target.structured("2:4")):
        (ours,) = (
            make_pruner("sparsegpt", PruneConfig()).prune([weight], statistic, target).matrices
        )
        found = loop(weight, statistic.matrix(), target)
        assert torch.equal(found != 0, ours.mask)
        assert torch.allclose(found, ours.weight, atol=1e-4)
