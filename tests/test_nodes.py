"""Several nodes: what is read once on each."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch

from core.ranks import Ranks
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
        files = SimpleNamespace(is_local=False)

        @contextmanager
        def opened(self):
            place = tmp_path / f"stages-x-{len(fetched)}"
            fetched.append(place)
            place.mkdir()
            (place / "model").write_text("weights")
            yield place
            (place / "model").unlink()

    def body(ranks):
        with nodes.opened_once(Remote(), ranks) as place:  # pyright: ignore
            return place.name, (place / "model").read_text()

    read = on_all_ranks(monkeypatch, body)
    assert len(fetched) == 2
    assert [text for _, text in read] == ["weights"] * 5
    assert len({place for place, _ in read}) == 2
    assert not any((place / "model").exists() for place in fetched)


def test_one_rank_waits_for_nobody():
    with nodes.leader_first(Ranks.current()):
        pass
