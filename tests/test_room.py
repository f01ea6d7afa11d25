"""Waiting for room: without a limit while others hold it, and no longer once there can be none."""

import pytest

from orchestrator.cluster.reach import WorkerShape, reach_from
from orchestrator.cluster.room import CHECK_SECONDS, RETURN_SECONDS, NoRoomError, wait_for_room

SHAPE = WorkerShape(4)


class Cluster:
    """A cluster in a time of its own: room comes after some seconds, nodes change at some."""

    def __init__(self, room_at, *changes, scaling=None):
        self.now, self.room_at, self.changes = 0.0, room_at, changes
        self.scaling, self.told = scaling or {}, []

    def ready(self, seconds):
        self.now += seconds
        return self.now >= self.room_at

    def why_never(self):
        cores = [cpus for at, cpus in self.changes if at <= self.now][-1]
        nodes = [{"Alive": True, "Resources": {"CPU": count}} for count in cores]
        return reach_from(nodes, self.scaling).why_never(SHAPE, 2)

    def wait(self):
        wait_for_room(self.ready, self.why_never, self.told.append, clock=lambda: self.now)


def test_a_trial_waits_for_days_and_says_so_now_and_then():
    cluster = Cluster(3 * 86_400, (0, [4, 4]))
    cluster.wait()
    assert cluster.told[:6] == [1, 3, 7, 15, 31, 61]
    assert len(cluster.told) == pytest.approx(3 * 48, abs=6)


def test_a_short_wait_is_not_worth_a_line():
    cluster = Cluster(50, (0, [4, 4]))
    cluster.wait()
    assert cluster.told == []


def test_a_cluster_that_shrinks_below_a_group_refuses_it_at_once():
    cluster = Cluster(9e9, (0, [4, 4]), (1000, [4]))
    with pytest.raises(NoRoomError, match="only 1 workers with 4 CPU cores each fit on the nodes"):
        cluster.wait()
    assert cluster.now <= 1000 + RETURN_SECONDS + 2 * CHECK_SECONDS


def test_a_node_that_comes_back_refuses_nobody():
    cluster = Cluster(2000, (0, [4, 4]), (1000, [4]), (1020, [4, 4]))
    cluster.wait()
    assert cluster.now >= 2000


def test_what_the_autoscaler_may_add_is_waited_for():
    types = {"spot": {"resources": {"CPU": 4}, "max_workers": 2}}
    scaling = {"max_workers": 2, "available_node_types": types}
    cluster = Cluster(5000, (0, []), scaling=scaling)
    cluster.wait()
    assert cluster.now >= 5000
