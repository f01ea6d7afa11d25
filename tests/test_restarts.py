"""Restarts after failures: counted at one place, paused, and given up cell by cell."""

import runpy
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, NodeDiedError
from ray.train import WorkerGroupError

from core.ranks import Ranks
from core.targets import Target
from orchestrator.cluster import driver
from orchestrator.cluster.restarts import FAILURES, LONGEST_PAUSE, LOST_NODES, SPOT, Restarts
from orchestrator.cluster.room import WAITING, NoRoomError
from orchestrator.out_dir import mark
from orchestrator.plan.kinds import Prune
from orchestrator.preparation import prepare
from orchestrator.trial.runners import RUNNERS
from orchestrator.trial.walk import Walk

_walked = runpy.run_path(str(Path(__file__).with_name("walked.py")))
jobs_of, rows_of = _walked["jobs_of"], _walked["rows_of"]


def test_pauses_grow_up_to_a_limit():
    pauses = [SPOT.pause(times) for times in range(1, SPOT.restarts + 1)]
    assert pauses[:4] == [10, 20, 40, 80] and pauses == sorted(pauses)
    assert max(pauses) == LONGEST_PAUSE
    assert FAILURES.pause(3) == 0


def test_failures_are_counted_by_kind_since_the_work_came_forward():
    restarts = Restarts("trial")
    assert [restarts.note(LOST_NODES, (9, 0)) for _ in range(3)] == [1, 2, 3]
    assert restarts.note(SPOT, (9, 0)) == 1
    assert restarts.note(LOST_NODES, (9, 0)) == 4
    assert restarts.note(LOST_NODES, (8, 0)) == 1


def test_trials_that_lost_one_node_come_back_at_different_moments():
    pauses = set()
    for name in "abcd":
        restarts = Restarts(name)
        restarts.note(LOST_NODES, 0)
        pauses.add(restarts.pause(LOST_NODES))
    assert len(pauses) == 4 and all(5 <= pause <= 15 for pause in pauses)


@pytest.fixture
def sweep(two_cells):
    """A sweep of one trial: two sparsities by magnitude, and the dense model."""
    return prepare(two_cells)


@pytest.fixture
def run(sweep, monkeypatch):
    """`run(harm)`: run the trial; `harm(stage)` comes before pruning. The pauses that were made."""
    mark(sweep.store)
    walked = {"groups": 0, "told": []}

    def drive(harm):
        pauses = []
        prune = RUNNERS[Prune]

        def harmed(space, stage):
            harm(stage)
            prune(space, stage)

        class Group:
            def __init__(self, job, config):
                self.job = job

            def fit(self):
                walked["groups"] += 1
                Walk(self.job, sweep.store, Ranks.current(), lambda metrics: None).run()

        monkeypatch.setitem(RUNNERS, Prune, harmed)
        monkeypatch.setattr(driver, "make_trainer", Group)
        monkeypatch.setattr(driver.time, "sleep", pauses.append)
        monkeypatch.setattr(driver.ray, "get", lambda packed: packed)
        monkeypatch.setattr(driver.ray.tune, "report", walked["told"].append)
        jobs = {job.id: job.packed() for job in jobs_of(sweep)}
        (trial,) = jobs
        driver.run_trial({"trial": {"id": trial}}, jobs)
        return pauses

    drive.walked = walked
    return drive


def states(sweep):
    rows = rows_of(sweep.store.root).values()
    return {(row["regime"], row["sparsity"]): (row["status"], row["error"]) for row in rows}


def killed_node():
    lost = ActorDiedError()
    lost.error_msg = "The actor died unexpectedly.\nThe actor died because its node has died."
    return WorkerGroupError("lost", {0: lost})


@pytest.mark.usefixtures("one_thread")
def test_a_cell_that_kills_its_node_fails_and_the_others_go_on(sweep, run):
    def kill(stage):
        if stage.work.target_after() == Target(0.5):
            raise killed_node()

    pauses = run(kill)
    assert run.walked["groups"] == LOST_NODES.restarts + 2
    assert len(pauses) == LOST_NODES.restarts
    told = [report[WAITING] for report in run.walked["told"]]
    assert len(told) == len(pauses) and told[0].startswith("a node was lost; starting again in ")
    assert all(later > earlier / 2 for earlier, later in zip(pauses, pauses[1:]))
    assert pauses[-1] > 2 * pauses[0]
    found = states(sweep)
    status, error = found["oneshot", 0.5]
    assert status == "failed"
    assert error.startswith("a node was lost, 6 times while this cell ran: the cell may use up")
    assert "--retry-failed" in error
    assert found["oneshot", 0.7][0] == "done" and found["dense", 0.0][0] == "done"


@pytest.mark.usefixtures("one_thread")
def test_a_few_lost_nodes_fail_nothing(sweep, run):
    left = [NodeDiedError("gone")] * 3

    def kill(stage):
        if left:
            raise WorkerGroupError("lost", {0: left.pop()})

    assert len(run(kill)) == 3
    assert {status for status, _ in states(sweep).values()} == {"done"}


@pytest.mark.usefixtures("one_thread")
def test_a_group_that_finds_no_room_ever_fails_all_cells_at_once(sweep, run):
    from ray.train import ControllerError

    def refuse(stage):
        raise ControllerError(NoRoomError("no node has 4 CPU cores; the most are 1"))

    assert run(refuse) == [] and run.walked["groups"] == 1
    (dense, *pruned) = sorted(states(sweep).values())
    assert dense == ("done", None)
    assert {status for status, _ in pruned} <= {"failed", "not_run"}
    assert all("no room in the cluster: no node has 4 CPU cores" in error for _, error in pruned)


def test_the_users_own_environment_wins(monkeypatch):
    settings = {"RAY_TRAIN_NCCL_RAS_ACTION": "fail", "NCCL_RAS_ADDR": "localhost:1"}
    monkeypatch.setattr(driver, "USERS", frozenset({"RAY_TRAIN_NCCL_RAS_ACTION"}))
    assert driver.without_users(settings) == {"NCCL_RAS_ADDR": "localhost:1"}
