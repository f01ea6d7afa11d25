"""A killed worker and a stopped command through real Ray, and what Ray's errors are taken for."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from orchestrator.cli import parse
from orchestrator.cluster.diagnosis import describe
from orchestrator.cluster.room import NoRoomError
from orchestrator.cluster.worker import within
from orchestrator.config import SweepConfig
from orchestrator.failure import StuckError
from orchestrator.plan.job import Limits, Workers

pytestmark = pytest.mark.sweeps

_walked = runpy.run_path(str(Path(__file__).with_name("walked.py")))
walk, rows_of = _walked["walk"], _walked["rows_of"]
SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "sweep_opt.py"


class Trial:
    """The fields of a job that a failure's line needs."""

    workers = Workers("cpu", 4, 8, micro_batch_tokens=2048, memory_bytes=2.5 * 2**30)
    limits = Limits(checkpoint_seconds=60.0, timeout_seconds=60.0, stop_perplexity=None)
    store_root = "out"


def group_error(*errors):
    return WorkerGroupError("workers failed", dict(enumerate(errors)))


LOST = WorkerHealthCheckFailedError("a worker health check failed", ActorDiedError())
FAILURES = [
    (group_error(LOST), "killed (possibly out of memory; estimated 2.5 GiB a worker)", True),
    (group_error(RuntimeError("Connection closed by peer [127.0.0.1]"), LOST), "killed", True),
    (group_error(WorkerHealthCheckTimeoutError("hanging")), "stuck for 60 s", True),
    (group_error(RuntimeError("Timed out waiting 60000ms for recv")), "--timeout-seconds", True),
    (group_error(StuckError("a report timed out")), "stuck for 60 s", True),
    (ControllerError(NoRoomError("no node has 8 CPU cores")), "no room in the cluster: no", True),
    (group_error(ValueError("first\nlast")), "ValueError: last", False),
    (group_error(MemoryError()), "out of memory; estimated 2.5 GiB a worker", False),
    (group_error(OSError(28, "No space left on device")), "free some and run the same", False),
]


@pytest.mark.parametrize(("error", "line", "interrupted"), FAILURES, ids=lambda v: str(v)[:40])
def test_each_failure_of_a_worker_group_is_told_apart(error, line, interrupted):
    failure = describe(Trial(), error)
    assert line in failure.line and "\n" not in failure.line
    assert failure.interrupted == interrupted


def test_a_report_that_nobody_takes_ends_in_an_error():
    report = within(lambda metrics: time.sleep(5), 0.05)
    with pytest.raises(StuckError, match=r"not taken within 0\.05 s"):
        report({})


def test_an_error_of_a_report_is_passed_on():
    def report(metrics):
        raise KeyError("no such run")

    with pytest.raises(KeyError):
        within(report, 5.0)({})


@pytest.fixture
def place(tmp_path, tiny_opt_dir, write_texts):
    """A directory with texts, and the flags of a sweep of five cells on a tiny model."""
    write_texts(tmp_path)
    (tmp_path / "home").mkdir()
    return tmp_path, [
        *("--models", str(tiny_opt_dir), "--methods", "sparsegpt", "--regimes", "finetune"),
        *("--sparsities", "0.5", "0.7", "--calibration.text", str(tmp_path / "calibration.txt")),
        *("--calibration.num-samples", "8", "--calibration.seq-len", "32"),
        *("--finetune.text", str(tmp_path / "train.txt"), "--finetune.tokens", "4096"),
        *("--finetune.seq-len", "32", "--finetune.batch-tokens", "64"),
        # The dense control trains too, which adaptive training leaves out.
        *("--finetune.objective", "next_token"),
        *("--eval.texts", str(tmp_path / "test.txt"), "--eval.seq-len", "32"),
        *("--eval.max-windows", "8", "--cpus-per-worker", "1", "--max-concurrent-trials", "1"),
        *("--checkpoint-seconds", "0"),
    ]


@pytest.fixture
def start(place):
    """`start()` runs the sweep as a user does; whatever is left of it at the end is killed."""
    directory, flags = place
    environment = {
        **os.environ,
        **{"HOME": str(directory / "home"), "RAY_USAGE_STATS_ENABLED": "0"},
    }
    environment.pop("RAY_ADDRESS", None)
    started = []

    def call():
        started.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPT), *flags, "--out-dir", str(directory / "out")],
                cwd=directory,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        return started[-1]

    yield call
    for process in started:
        if process.poll() is None:
            for one in (*family_of(process), process):
                one.kill()


def family_of(process):
    return psutil.Process(process.pid).children(recursive=True)


def title_of(process):
    """Title of a process; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_until(found, process, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, process.stdout.read()
        value = found()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("it did not come to that")


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("one_thread")
def test_a_killed_worker_and_a_stopped_command_change_no_row(start, place):
    directory, flags = place
    process = start()

    def workers():
        return [
            one for one in family_of(process) if title_of(one).startswith("ray::RayTrainWorker")
        ]

    def stages():
        folder = directory / "out" / "stages"
        return len([*folder.iterdir()]) if folder.exists() else 0

    wait_until(stages, process)
    wait_until(workers, process)[0].kill()
    count = stages()
    wait_until(lambda: stages() > count, process)
    family = family_of(process)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert time.monotonic() - begin < 15
    assert process.returncode == 143 and "run the same command again" in said
    assert "Traceback" not in said
    wait_until_gone(family)

    again = start()
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    undisturbed = directory / "undisturbed"
    walk(parse(SweepConfig(), [*flags, "--out-dir", str(undisturbed)], ""))
    expected = rows_of(undisturbed)
    assert len(expected) == 4 and rows_of(directory / "out") == expected


def wait_until_gone(family, seconds=30):
    end = time.monotonic() + seconds
    while any(map(title_of, family)):
        assert time.monotonic() < end, "Ray's processes outlived the command"
        time.sleep(0.1)
