"""Worker groups that do not start, stages by themselves and messages, on one Ray of one core."""

import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from test_zero_shot import define_task
from walked import walk

from orchestrator.cli import parse
from orchestrator.cluster import messages as ray_messages
from orchestrator.cluster.diagnosis import describe
from orchestrator.cluster.lone_stages import run_alone, walk_alone
from orchestrator.cluster.placement import PlaceRelease, StartLimit
from orchestrator.cluster.sent_jobs import sent
from orchestrator.cluster.train_internals import LeanTrainer
from orchestrator.config import SweepConfig
from orchestrator.jobs import task_job
from orchestrator.plan.job import Limits, Workers
from orchestrator.store.store import Store
from tests.harmed_groups import LosesItsWorker, StopsItsWorker

TRIAL = SimpleNamespace(
    workers=Workers("cpu", 1, 1, micro_batch_tokens=2048, memory_bytes=2.0**30),
    limits=Limits(checkpoint_seconds=60.0, timeout_seconds=60.0, stop_perplexity=None),
    store_root="out",
)
"""The fields of a job that a failure's line needs."""
pytestmark = [pytest.mark.sweeps, pytest.mark.usefixtures("small_ray", "one_thread")]


@pytest.fixture(scope="module")
def small_ray(tmp_path_factory):
    """Ray with one core in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(num_cpus=1, log_to_driver=False, object_store_memory=2**27)
        yield
        ray.shutdown()


@pytest.mark.parametrize(
    ("harm", "limit", "line"),
    [
        (LosesItsWorker(), 120.0, "killed"),
        (StopsItsWorker(), 12.0, "a worker was lost or did not answer"),
    ],
    ids=["lost", "stopped"],
)
def test_a_group_that_does_not_start_ends_and_gives_its_place_back(harm, limit, line, tmp_path):
    with pytest.raises(TrainingFailedError) as failed:
        trainer(tmp_path, limit, harm).fit()
    assert describe(TRIAL, failed.value).line.startswith(line)
    end = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 1:
        assert time.monotonic() < end, "the next group would wait for ever for this one's core"
        time.sleep(0.1)


def trainer(folder, limit, *harms):
    """A group of one worker that does nothing."""
    made = LeanTrainer(
        lambda: None,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            callbacks=[PlaceRelease(), StartLimit(limit), *harms],
        ),
    )
    made.may_grow = False
    return made


def test_tasks_on_ray_find_the_numbers_that_they_find_here(tmp_path, tiny_opt_dir, write_texts):
    write_texts(tmp_path)
    flags = [
        *("--models", str(tiny_opt_dir), "--out-dir", str(tmp_path / "out"), "--keep", "final"),
        *("--methods", "magnitude", "--regimes", "oneshot", "--sparsities", "0.5"),
        *("--eval.texts", str(tmp_path / "test.txt"), "--eval.seq-len", "32"),
        *("--eval.max-windows", "2", "--eval.tasks", str(define_task(tmp_path))),
        *("--cpus-per-worker", "1"),
    ]
    sweep = walk(parse(SweepConfig(), flags, ""))
    jobs = [task_job(sweep, stage) for stage in sweep.missing_tasks()]
    shutil.copytree(tmp_path / "out", tmp_path / "here")
    assert len(jobs) == 2 and run_alone(jobs, sweep.config.resources) == 0
    for job in jobs:
        walk_alone(sent(replace(job, store_root=str(tmp_path / "here"))))
    apart, here = (Store(str(tmp_path / name)).stages for name in ("out", "here"))
    for job in jobs:
        one, other = (stages.at(job.stages[0].id).manifest() for stages in (apart, here))
        assert one["results"] == other["results"] and 0 <= one["results"]["acc"] <= 1


def test_what_ray_says_of_a_lost_node_is_one_line(capsys):
    from ray._private.utils import publish_error_to_driver
    from ray._private.worker import global_worker

    ray_messages.tell_in_lines()
    lost = "The node with node id: 07 has been marked dead.\n" + "    state\n" * 40
    shown, end = "", time.monotonic() + 30
    for message in (lost, lost, "last"):
        publish_error_to_driver("node", message, global_worker.gcs_client)
    while "last" not in shown and time.monotonic() < end:
        time.sleep(0.1)
        shown += capsys.readouterr().err
    first, second = shown.splitlines()
    assert first.startswith("Ray: The node with node id: 07 has been marked dead. state")
    assert len(first) < 80 and first.endswith(" ...") and second == "Ray: last"
