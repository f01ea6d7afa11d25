"""Several nodes: what is read once on each, and that two nodes give one node's result."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from core.parallel import Ranks
from orchestrator import nodes
from orchestrator.results import read_rows

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "sweep_opt.py"
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


# Two nodes that Ray simulates --------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head without CPU cores and two nodes of one core each."""
    from ray.cluster_utils import Cluster

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        store = {"object_store_memory": 10**8}
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0, **store},
        )
        for _ in range(2):
            cluster.add_node(num_cpus=1, **store)
        cluster.wait_for_nodes()
        yield cluster
        cluster.shutdown()


def sweep(cluster, folder: Path, tiny_opt_dir: Path, text: Path, *extra: str):
    lines = text.read_text(encoding="utf-8").splitlines()
    for name, part in {"cal": lines[:12], "train": lines[12:28], "test": lines[28:]}.items():
        (folder / f"{name}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
    command = [
        *(sys.executable, str(SCRIPT), "--models", str(tiny_opt_dir), "--sparsities", "0.5"),
        *("--methods", "sparsegpt", "--regimes", "oneshot", "finetune", "--cpus-per-worker", "1"),
        *("--calibration.text", "cal.txt", "--calibration.seq-len", "32"),
        *("--calibration.num-samples", "8", "--finetune.text", "train.txt"),
        *("--finetune.tokens", "512", "--finetune.seq-len", "32", "--finetune.batch-tokens"),
        *("128", "--eval.texts", "test.txt", "--eval.seq-len", "32", "--eval.max-windows", "8"),
        *("--max-concurrent-trials", "1", *extra),
    ]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )


def test_two_nodes_of_one_rank_each_give_one_nodes_result(
    cluster, tmp_path, tiny_opt_dir, tiny_text_file
):
    found = {}
    for count in (1, 2):
        out = tmp_path / f"out{count}"
        flags = ("--num-workers", str(count), "--out-dir", str(out))
        done = sweep(cluster, tmp_path, tiny_opt_dir, tiny_text_file, *flags)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = read_rows(str(out / "results.parquet"))
        found[count] = {(r["method"], r["regime"], r["sparsity"]): r for r in rows}
    one, two = found[1], found[2]
    assert one.keys() == two.keys() and len(one) == 4
    for key, row in two.items():
        assert row["num_workers"] == 2
        assert row["perplexity"] == pytest.approx(one[key]["perplexity"], rel=2e-3), key
        assert row["measured_sparsity"] == one[key]["measured_sparsity"]


def test_a_node_that_went_away_is_told_from_a_process_that_died(cluster):
    import ray
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import WorkerGroupError

    from orchestrator.driver import lost_node

    @ray.remote(num_cpus=0, resources={"spot": 1})
    class Worker:
        def pid(self):
            return os.getpid()

    def death_of(worker, kill) -> WorkerGroupError:
        pid = ray.get(worker.pid.remote())
        kill(pid)
        with pytest.raises(ray.exceptions.RayActorError) as caught:
            for _ in range(100):
                ray.get(worker.pid.remote())
                time.sleep(0.1)
        wrapped = WorkerHealthCheckFailedError("a worker died", caught.value)
        return WorkerGroupError("training failed", {0: ValueError("collateral"), 1: wrapped})

    ray.init(address=cluster.address, log_to_driver=False)
    try:
        node = cluster.add_node(num_cpus=1, resources={"spot": 2}, object_store_memory=10**8)
        cluster.wait_for_nodes()
        killed = death_of(Worker.remote(), lambda pid: os.kill(pid, signal.SIGKILL))
        assert not lost_node(killed)
        remove = lambda _: cluster.remove_node(node, allow_graceful=False)  # noqa: E731
        assert lost_node(death_of(Worker.remote(), remove))
    finally:
        ray.shutdown()
