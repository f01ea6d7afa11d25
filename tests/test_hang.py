"""A group that hangs in nccl: Ray's detector is set up for it, and its row names the late rank.

No GPU is needed: Ray's own detector gets reports as nccl writes them.
"""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from ray.train import NCCLHangError
from ray.train.v2._internal.callbacks import nccl_ras

from orchestrator.cluster import hang
from orchestrator.cluster.diagnosis import describe
from orchestrator.cluster.hang import detector_settings, why_off
from orchestrator.plan.job import Limits, Workers


@dataclass(frozen=True)
class Trial:
    """The fields of a job that the detector depends on."""

    workers: Workers = Workers("cuda", 3, 8, micro_batch_tokens=2048, memory_bytes=2**30)
    limits: Limits = Limits(60.0, timeout_seconds=1000.0, stop_perplexity=None, block_seconds=9.0)
    id: str = "trial"
    store_root: str = "out"


def test_the_detector_is_on_for_groups_that_use_nccl_alone():
    trial = Trial()
    flag = "RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR"
    assert detector_settings(trial, 1)[flag] == "1"
    for changes in ({"device": "cpu"}, {"num_workers": 1}):
        other = replace(trial, workers=replace(trial.workers, **changes))
        assert detector_settings(other, 1)[flag] == "0" and why_off(other) is None


def test_two_groups_of_a_machine_do_not_share_a_port():
    ports = {detector_settings(Trial(), process)["NCCL_RAS_ADDR"] for process in range(3)}
    assert len(ports) == 3


def test_one_line_says_that_the_detector_is_off(monkeypatch):
    monkeypatch.setattr(hang.shutil, "which", lambda name: None)
    assert "no ncclras" in why_off(Trial())
    monkeypatch.setattr(hang.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert why_off(Trial()) is None


def test_a_solve_that_may_take_as_long_as_a_hang_is_never_taken_for_one():
    slow = replace(Trial(), limits=replace(Trial().limits, block_seconds=950.0))
    assert detector_settings(slow, 1)["RAY_TRAIN_ENABLE_NCCL_HANG_DETECTOR"] == "0"
    assert "raise --timeout-seconds" in why_off(slow)


def report(counts, timestamp):
    """A report of nccl 2.28 on one group: the broadcasts that each rank has begun."""
    status = {
        "abort_flag": False,
        "finalize_called": False,
        "destroy_flag": False,
        "init_state": 0,
    }
    ranks = [
        {"rank": rank, "status": status, "collective_counts": {"Broadcast": count, "AllReduce": 4}}
        for rank, count in enumerate(counts)
    ]
    text = json.dumps({"timestamp": timestamp, "communicators": [{"hash": "0x1", "ranks": ranks}]})
    return nccl_ras.parse_ras_schema(text)


@pytest.fixture
def watch(monkeypatch, tmp_path):
    """`watch(counts)`: show reports to Ray's detector, set up as for a trial, until it gives up."""
    for name, value in detector_settings(Trial(), 1).items():
        monkeypatch.setenv(name, value)

    def upload(self, tool, files):
        folder = tmp_path / "run" / "hang_detector" / tool
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        return str(folder)

    detector = nccl_ras.NCCLRASCallback
    monkeypatch.setattr(detector, "upload_diagnostics", upload)
    monkeypatch.setattr(detector, "fetch_ras_human_report", lambda self: None)
    monkeypatch.setattr(detector, "dump_workers_stack_traces", lambda self: None)

    def run(counts):
        callback, seen = detector(), 0
        callback._ras_poller = SimpleNamespace(
            next_result=lambda: report(
                counts(seen), f"2026-11-28 12:{seen // 60:02}:{seen % 60:02}"
            )
        )
        with pytest.raises(NCCLHangError) as failure:
            for seen in range(500):  # noqa: B007 - `next_result` reads it
                callback.after_worker_group_poll_status(None)
        return failure.value, seen * 15.0

    return run


def test_the_row_names_the_rank_that_the_others_wait_for(watch, tmp_path):
    # Ranks go on for ten reports; then rank 1 no longer begins what the others have begun.
    error, seconds = watch(lambda seen: [min(seen, 10) + 1, min(seen, 10), min(seen, 10) + 1])
    assert seconds == pytest.approx(150 + 900, abs=30)
    failure = describe(Trial(store_root=str(tmp_path)), error)
    assert failure.line.startswith("nccl hung: rank 1 did not begin") and "\n" not in failure.line
    assert failure.interrupted and failure.patience is not None


def test_a_hang_without_reports_is_still_told():
    failure = describe(Trial(), NCCLHangError("no progress", {}))
    assert "no report tells which rank" in failure.line
