"""Processes killed at random moments, damaged files and full disks: the rows come out the same.

Trials are walked in forked processes without Ray, so that many can be killed;
`test_faults_ray.py` does it through Ray, `experiments/harnesses/fault_harness.py` at length.
"""

import gc
import itertools
import multiprocessing
import os
import random
import resource
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from ray.train import TrainingFailedError

from core.config import CalibrationConfig, EvalConfig, FinetuneConfig
from core.ranks import Ranks
from orchestrator.cluster import driver
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from orchestrator.failure import is_no_space
from orchestrator.out_dir import mark
from orchestrator.plan.kinds import Finetune
from orchestrator.preparation import prepare
from orchestrator.store.store import Store
from orchestrator.trial.runners import RUNNERS
from orchestrator.trial.walk import Walk

_walked = runpy.run_path(str(Path(__file__).with_name("walked.py")))
walk, jobs_of, rows_of = (_walked[name] for name in ("walk", "jobs_of", "rows_of"))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def make_config(tmp_path_factory, tiny_llama_dir, write_texts):
    """`make_config(out_dir, **grid)`: a small sweep that saves a checkpoint after every step."""
    directory = tmp_path_factory.mktemp("texts")
    write_texts(directory)

    def make(out_dir, stop_perplexity=None, keep=None, **grid):
        cells = {"methods": ("sparsegpt",), "sparsities": (0.5, 0.7), **grid}
        return SweepConfig(
            grid=GridConfig(models=(str(tiny_llama_dir),), **cells),
            calibration=CalibrationConfig(
                text=str(directory / "calibration.txt"), num_samples=8, seq_len=32
            ),
            finetune=FinetuneConfig(
                text=str(directory / "train.txt"), tokens=1024, seq_len=32, batch_tokens=128
            ),
            eval=EvalConfig(texts=(str(directory / "test.txt"),), seq_len=32, max_windows=8),
            resources=ResourceConfig(cpus_per_worker=1, stop_perplexity=stop_perplexity),
            output=OutputConfig(out_dir=str(out_dir), checkpoint_seconds=0, keep=keep),
        )

    return make


@pytest.fixture(scope="module")
def undisturbed(make_config, tmp_path_factory):
    """Out-dir and rows of a run that nothing happened to."""
    config = make_config(tmp_path_factory.mktemp("undisturbed") / "out")
    walk(config)
    return Path(config.output.out_dir), rows_of(config.output.out_dir)


def forked(config, kill_at=None):
    return fork(walk_until, config, kill_at)


def fork(target, *args):
    """Start a function in a forked process, which never collects what earlier tests left.

    A process group that one of them left cannot be destroyed there.
    """
    process = multiprocessing.get_context("fork").Process(target=target, args=args)
    gc.freeze()
    process.start()
    gc.unfreeze()
    return process


def walk_until(config, kill_at):
    """Walks; dies at once before the `kill_at`th time that a file of the store is touched."""
    touched = itertools.count(1)

    def look(event, arguments):
        if event.partition(".")[0] in ("open", "os", "shutil") and arguments:
            if str(arguments[0]).startswith(config.output.out_dir) and next(touched) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if kill_at is not None:
        sys.addaudithook(look)
    walk(config)


def test_runs_killed_at_random_moments_end_in_the_same_rows(make_config, undisturbed, tmp_path):
    config = make_config(tmp_path / "out")
    source, kills = random.Random(0), 0
    while True:
        process = forked(config, source.randint(1, 60) if kills < 15 else None)
        process.join()
        if process.exitcode != -signal.SIGKILL:
            break
        kills += 1
        move_clock(tmp_path / "out", source)
    assert process.exitcode == 0 and kills >= 10
    assert rows_of(config.output.out_dir) == undisturbed[1]
    metrics = [m["metrics"] for m in Store(str(tmp_path / "out")).stages.manifests().values()]
    assert any(m.get("steps_resumed") for m in metrics), "no kill hit a round of training"


def move_clock(out, source):
    """Files get times up to a day before or after now, as after a jump of the clock."""
    for file in out.rglob("*"):
        moment = time.time() + source.uniform(-86_400, 86_400)
        os.utime(file, (moment, moment))


def test_two_sweeps_at_a_time_compute_each_stage_whole(make_config, undisturbed, tmp_path):
    config = make_config(tmp_path / "out")
    processes = [forked(config), forked(config)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert rows_of(config.output.out_dir) == undisturbed[1]
    assert_whole(Store(str(tmp_path / "out")))


def assert_whole(store):
    for stage, manifest in store.stages.manifests().items():
        assert store.stages.at(stage).damage(manifest, deep=True) is None


@pytest.fixture
def copied(make_config, undisturbed, tmp_path):
    """Settings of a finished sweep of its own."""
    shutil.copytree(undisturbed[0], tmp_path / "out")
    return make_config(tmp_path / "out")


def trained_stages(store):
    manifests = store.stages.manifests()
    return [m for m in manifests.values() if m["kind"] == "finetune" and m["method"] != "dense"]


def weights_file(store, stage):
    return next(Path(store.files.join("stages", stage)).rglob("model.safetensors"))


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1000])


def flip(file):
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)


def empty_manifest(file):
    (file.parents[1] / "manifest.json").write_bytes(b"")


@pytest.mark.parametrize("harm", [truncate, flip, empty_manifest])
def test_a_damaged_stage_of_a_finished_sweep_is_computed_again(harm, copied, undisturbed, caplog):
    store = Store(copied.output.out_dir)
    stage = trained_stages(store)[0]["id"]
    harm(weights_file(store, stage))
    walk(copied)
    assert "set aside" in caplog.text and stage in caplog.text
    assert rows_of(copied.output.out_dir) == undisturbed[1]
    assert stage in store.stages.manifests()
    assert_whole(store)


def test_damage_that_only_the_hash_shows_is_repaired_by_whoever_reads_it(
    copied, undisturbed, caplog
):
    store = Store(copied.output.out_dir)
    first = next(m for m in trained_stages(store) if m["fields"]["round"] == 1)
    # A bad disk changes no times; a row and a stage behind it are missing, so that it is read.
    file = weights_file(store, first["id"])
    before = file.stat()
    flip(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    for manifest in store.stages.manifests().values():
        if manifest["parent"] == first["id"]:
            shutil.rmtree(store.files.join("stages", manifest["id"]))
    walk(copied)
    assert f"stage {first['id']} is damaged" in caplog.text
    assert rows_of(copied.output.out_dir) == undisturbed[1]
    assert_whole(store)


def test_a_full_disk_leaves_nothing_half_and_the_next_run_goes_on(
    make_config, undisturbed, tmp_path
):
    config = make_config(tmp_path / "out")

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
        try:
            walk(config)
        except Exception as error:
            os._exit(17 if is_no_space(error) else 1)

    process = fork(limited)
    process.join()
    assert process.exitcode == 17
    assert all(
        m["kind"] == "evaluate" for m in Store(str(tmp_path / "out")).stages.manifests().values()
    )
    walk(config)
    assert rows_of(config.output.out_dir) == undisturbed[1]


def test_weights_that_were_dropped_come_back_when_they_are_needed(make_config, tmp_path):
    walk(make_config(tmp_path / "out", keep="none", sparsities=(0.5,)))
    walk(make_config(tmp_path / "out", keep="none"))
    all_at_once = make_config(tmp_path / "other")
    walk(all_at_once)
    expected = rows_of(all_at_once.output.out_dir)
    found = rows_of(tmp_path / "out")
    assert {k: r["perplexity"] for k, r in expected.items()} == {
        k: found[k]["perplexity"] for k in expected
    }


def test_a_branch_that_passed_the_limit_is_given_up_and_taken_up_again(
    make_config, undisturbed, tmp_path
):
    expected = undisturbed[1]

    def state(rows, regime):
        found = [r for r in rows.values() if r["regime"] == regime and r["method"] != "dense"]
        return [(r["status"], r["error"]) for r in sorted(found, key=lambda r: r["sparsity"])]

    worst = max(r["perplexity"] for r in expected.values() if r["regime"] == "oneshot")
    low = make_config(tmp_path / "out", stop_perplexity=1.5)
    walk(low)
    rows = rows_of(low.output.out_dir)
    assert [status for status, _ in state(rows, "oneshot")] == ["done", "done"]
    for status, error in state(rows, "finetune") + state(rows, "iterative"):
        assert status == "stopped" and "--stop-perplexity 1.5" in error
    before = set(Store(low.output.out_dir).stages.manifests())
    assert walk(low).cells == (), "given up once is enough"
    assert set(Store(low.output.out_dir).stages.manifests()) == before
    walk(make_config(tmp_path / "out", stop_perplexity=worst + 1))
    assert rows_of(low.output.out_dir) == expected


@pytest.fixture
def greedy(monkeypatch):
    """Training that asks for more memory than there is; the stages that it was tried for."""
    tries = []

    def ask(space, stage):
        tries.append(stage.id)
        torch.empty(2**50)

    monkeypatch.setitem(RUNNERS, Finetune, ask)
    return tries


@pytest.mark.usefixtures("greedy")
def test_memory_that_cannot_be_had_is_a_failed_row_with_the_memory_needed(make_config, tmp_path):
    walk(make_config(tmp_path / "out"))
    trained = ("finetune", "iterative")
    rows = [r for r in rows_of(tmp_path / "out").values() if r["regime"] in trained]
    assert {r["status"] for r in rows} == {"failed", "not_run"}
    assert all("out of memory; estimated 0." in r["error"] for r in rows)
    assert all("GiB a worker" in r["error"] for r in rows)


def test_a_group_that_starts_again_leaves_alone_what_has_failed(
    greedy, make_config, tmp_path, monkeypatch
):
    sweep, groups = prepare(make_config(tmp_path / "out")), []
    mark(sweep.store)

    class DyingGroup:
        """A worker group that walks to the end and then dies."""

        def __init__(self, job, config):
            self.job = job
            groups.append(job)

        def fit(self):
            Walk(self.job, sweep.store, Ranks.current(), lambda metrics: None).run()
            raise TrainingFailedError("a panic in a library")

    monkeypatch.setattr(driver, "make_trainer", DyingGroup)
    monkeypatch.setattr(driver.ray, "get", lambda packed: packed)
    jobs = {job.id: job.packed() for job in jobs_of(sweep)}
    (trial,) = jobs
    driver.run_trial({"trial": {"id": trial}}, jobs)
    regimes = [{cell.regime for cell in job.cells} for job in groups]
    assert regimes[0] == {"dense", "oneshot", "finetune", "iterative"}
    assert len(regimes) > 1 and all(again == {"dense", "oneshot"} for again in regimes[1:])
    assert len(greedy) == len(set(greedy)) > 0, "tried twice"
