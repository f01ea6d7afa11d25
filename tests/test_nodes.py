"""Several nodes: what is read once on each."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from core.parallel import Ranks
from orchestrator.cluster import connection as cluster
from orchestrator.cluster import slots
from orchestrator.config import ResourceConfig
from orchestrator.trial import nodes

NODES = ["a", "b", "a", "b", "a"]


class ThreadRanks(Ranks):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, board: list, gate: threading.Barrier) -> None:
        super().__init__(rank, len(board), torch.device("cpu"))
        object.__setattr__(self, "board", board)
        object.__setattr__(self, "gate", gate)

    def gather(self, value):
        self.board[self.rank] = value
        self.gate.wait(10)
        values = list(self.board)
        self.gate.wait(10)
        return values

    def barrier(self):
        self.gate.wait(10)


def on_all_ranks(monkeypatch, body) -> list:
    """`body(ranks)` on five ranks of two nodes."""
    here = threading.local()
    monkeypatch.setattr(nodes, "node_name", lambda: NODES[here.rank])
    board, gate = [None] * len(NODES), threading.Barrier(len(NODES))

    def run(rank: int):
        here.rank = rank
        return body(ThreadRanks(rank, board, gate))

    with ThreadPoolExecutor(len(NODES)) as pool:
        return list(pool.map(run, range(len(NODES))))


def test_the_first_rank_of_each_node_reads_before_its_others(monkeypatch):
    on_disk: set[str] = set()
    downloads: list[int] = []

    def body(ranks):
        node = NODES[ranks.rank]
        with nodes.leader_first(ranks):
            if node not in on_disk:
                downloads.append(ranks.rank)
                time.sleep(0.05)
                on_disk.add(node)

    on_all_ranks(monkeypatch, body)
    assert sorted(downloads) == [0, 1]


def test_a_remote_stage_is_fetched_once_a_node_and_read_by_all(monkeypatch, tmp_path):
    fetched: list[Path] = []

    class Remote:
        is_local = False

        @contextmanager
        def opened(self, folder, name):
            place = tmp_path / f"{folder}-{name}-{len(fetched)}"
            fetched.append(place)
            place.mkdir()
            (place / "model").write_text("weights")
            yield place
            (place / "model").unlink()

    def body(ranks):
        with nodes.opened_once(Remote(), ranks, "stages", "x") as place:  # pyright: ignore
            return place.name, (place / "model").read_text()

    read = on_all_ranks(monkeypatch, body)
    assert len(fetched) == 2
    assert [text for _, text in read] == ["weights"] * 5
    assert len({place for place, _ in read}) == 2
    assert not any((place / "model").exists() for place in fetched)


def test_one_rank_waits_for_nobody():
    with nodes.leader_first(Ranks.current()):
        pass


SPOT = {"resources": {"CPU": 8, "GPU": 1}, "min_workers": 0, "max_workers": 8}
SCALING = {
    "max_workers": 6,
    "head_node_type": "head",
    "available_node_types": {"head": {"resources": {"CPU": 0}}, "spot": SPOT},
}


@pytest.fixture
def joined(monkeypatch):
    """`joined(scaling, *ups)`: a cluster with an autoscaler's config and what is up, by and by."""

    def join(scaling, *ups):
        answers = iter(ups)
        monkeypatch.setattr(cluster, "autoscaling", lambda _: scaling)
        context = SimpleNamespace(gcs_address="")
        monkeypatch.setattr(cluster.ray, "get_runtime_context", lambda: context)
        monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: next(answers))
        monkeypatch.setattr(cluster.time, "sleep", lambda _: None)

    return join


def test_trials_are_counted_by_what_the_autoscaler_may_reach(joined):
    joined(SCALING, {"node:__internal_head__": 1.0})
    gpus = ResourceConfig(use_gpu=True, cpus_per_worker=8)
    assert slots.slots_of_cluster(gpus) == 6
    joined(SCALING, {"CPU": 8.0, "GPU": 1.0})
    with pytest.raises(ValueError, match="--num-workers 7: needs 56 CPU cores; there are 48"):
        slots.slots_of_cluster(ResourceConfig(num_workers=7, cpus_per_worker=8))


def test_machines_that_come_by_themselves_are_waited_for(joined, capsys):
    types = {"own": {"resources": {}, "min_workers": 1, "max_workers": 1}}
    joined({"max_workers": 1, "available_node_types": types}, {}, {}, {}, {"CPU": 4.0})
    assert slots.slots_of_cluster(ResourceConfig(cpus_per_worker=2)) == 2
    assert capsys.readouterr().out == "waiting for the cluster's first worker\n"


def test_a_cluster_that_says_nothing_is_asked_for_what_is_wanted(joined, capsys):
    joined({}, {"node:__internal_head__": 1.0})
    assert slots.slots_of_cluster(ResourceConfig(max_concurrent_trials=3)) == 3
    assert "asking for 3 trials at a time" in capsys.readouterr().out


def test_workers_that_hold_no_trial_are_said_at_once(joined):
    joined({}, {"CPU": 1.0})
    with pytest.raises(ValueError, match="--num-workers 1: needs 2 CPU cores; there are 1"):
        slots.slots_of_cluster(ResourceConfig(cpus_per_worker=2))


def test_the_autoscalers_file_is_found_by_its_process(tmp_path):
    config = tmp_path / "scaling.yaml"
    config.write_text("max_workers: 3\n")
    address = "192.0.2.77:6379"
    flags = [f"--gcs-address={address}", f"--autoscaling-config={config}"]
    script = "print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script, *flags], **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()  # Its command line can be read once it runs.
        assert slots.autoscaling(address) == {"max_workers": 3}
        assert slots.autoscaling("192.0.2.78:6379") == {}
