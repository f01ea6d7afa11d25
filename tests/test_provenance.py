"""Rows and manifests tell of the process that computed them, and workers with other code refuse."""

import json
import pickle
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import parquet

from core.ranks import Ranks
from orchestrator.cli import parse
from orchestrator.cluster.diagnosis import describe
from orchestrator.cluster.sent_jobs import received, sent
from orchestrator.config import SweepConfig
from orchestrator.failure import OtherSourcesError
from orchestrator.out_dir import mark
from orchestrator.preparation import prepare, write_record
from orchestrator.repeat import changed_circumstances
from orchestrator.report import collect
from orchestrator.results import versions
from orchestrator.trial.walk import Walk

HERE = Path(__file__).resolve().parent
jobs_of = runpy.run_path(str(HERE / "walked.py"))["jobs_of"]
job_of = runpy.run_path(str(HERE / "stand_in_walk.py"))["job_of"]
WORKER = {"code_version": "9", "torch_version": "8", "transformers_version": "7"}
WORKER["ray_version"] = "6"


# Sources ------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A small checkout."""
    for name in ("core/__init__.py", "core/a/b.py", "orchestrator/page.py"):
        (tmp_path / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / name).write_bytes(f"# {name}\nx = 1\n".encode())
    return tmp_path / "one"


def test_equal_code_has_one_hash_wherever_it_lies(checkout, tmp_path):
    other = Path(shutil.copytree(checkout, tmp_path / "site-packages"))
    (other / "core" / "a" / "b.py").write_bytes(b"# core/a/b.py\r\nx = 1\r\n")
    for name in ("core/__pycache__/b.py", "core/.idea/c.py", "core/a/page.js", "other/d.py"):
        (other / name).parent.mkdir(exist_ok=True)
        (other / name).write_text("not a source")
    assert versions.hash_of_sources(other) == versions.hash_of_sources(checkout)


@pytest.mark.parametrize("change", ["edited", "added", "moved"])
def test_other_code_has_another_hash(checkout, tmp_path, change):
    other = Path(shutil.copytree(checkout, tmp_path / "other"))
    if change == "edited":
        (other / "core" / "a" / "b.py").write_text("# core/a/b.py\nx = 2\n")
    elif change == "added":
        (other / "core" / "a" / "c.py").write_text("")
    else:
        (other / "core" / "a" / "b.py").rename(other / "core" / "b.py")
    assert versions.hash_of_sources(other) != versions.hash_of_sources(checkout)


def test_the_hash_of_this_process_is_that_of_its_packages():
    assert versions.source_hash() == versions.hash_of_sources(HERE.parent)


def test_a_worker_takes_a_job_of_equal_sources_alone(tmp_path):
    job = job_of(tmp_path)
    equal = replace(job, run=replace(job.run, sources=versions.source_hash()))
    assert received(sent(equal)) == equal
    other = replace(job, run=replace(job.run, sources="0" * 64))
    # It is not even unpacked: classes may differ.
    with pytest.raises(OtherSourcesError, match="install the same version there") as caught:
        received({**sent(other), "job": b"nothing that can be read"})
    assert "\n" not in str(caught.value)
    wrapped = RuntimeError("as Ray gives it")
    wrapped.__dict__["worker_failures"] = {0: pickle.loads(pickle.dumps(caught.value))}
    failure = describe(job, wrapped)
    assert failure.halts and failure.line == str(caught.value)


# Rows and manifests -------------------------------------------------------------------------------


def test_rows_and_manifests_tell_of_the_worker(
    tiny_opt_dir, write_texts, tmp_path, monkeypatch, one_thread
):
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = ["--models", str(tiny_opt_dir), "--methods", "magnitude", "--regimes", "oneshot"]
    flags += ["--sparsities", "0.5", "--eval.texts", "test.txt", "--eval.seq-len", "32"]
    sweep = prepare(
        parse(SweepConfig(), [*flags, "--eval.max-windows", "2", "--out-dir", "out"], "")
    )
    mark(sweep.store)
    write_record(sweep)
    (job,) = jobs_of(sweep)
    monkeypatch.setattr(versions, "environment", lambda: WORKER)
    monkeypatch.setattr(versions, "source_hash", lambda: "hash of the worker")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    Walk(job, sweep.store, Ranks.current(), lambda metrics: None).run()
    for manifest in sweep.store.stages.manifests().values():
        told = manifest["environment"]
        assert told.items() >= WORKER.items()
        assert (told["sources"], told["device"]) == ("hash of the worker", "cpu")
        assert (told["tf32"], told["attention"]) == (True, "sdpa")
        assert told["processor"] == versions.processor_generation("cpu")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert collect(prepare(sweep.config)) == 0
    rows = parquet.read_table("out/results.parquet").to_pylist()
    assert len(rows) == 2
    for row in rows:
        assert row.items() >= {**WORKER, "device": "cpu", "num_workers": 1}.items()
        assert json.loads(row["environment"])["tf32"] is True


class Stages:
    """A store whose one stage ran on some processor."""

    def __init__(self, environment):
        self.environment, self.stages = environment, self

    def at(self, stage):
        return self

    def manifest(self):
        return {"environment": self.environment}


def test_generations_of_processors_with_one_name_are_other_circumstances(monkeypatch):
    facts = {"model name": "AMD EPYC", "cpu family": "26", "model": "2"}
    monkeypatch.setattr(versions, "cpu_facts", lambda: facts)
    now = {"machine": versions.processor(), "processor": versions.processor_generation("cpu")}
    then = {"machine": "AMD EPYC", "processor": "family 25, model 17"}
    told = "processor family 25, model 17 then, family 26, model 2 now"
    assert changed_circumstances(Stages(then), Stages(now), "s") == [told]
    del then["processor"]
    assert changed_circumstances(Stages(then), Stages(now), "s") == [], "not recorded then"
    monkeypatch.setattr(versions, "cpu_facts", dict)
    assert versions.processor_generation("cpu") is None and versions.processor()


def test_a_gpu_has_no_generation_of_a_processor():
    assert versions.processor_generation("cuda") is None
