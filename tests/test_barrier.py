"""Ranks wait for each other under a collective that only enqueues, as nccl's do.

The stand-in for nccl sums over gloo in the background. The host waits for it only where it reads a
value. A barrier that reads nothing would then let every rank go at once.
"""

import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import two_ranks

from core.ranks import Ranks
from orchestrator.trial.nodes import leader_first, opened_once
from orchestrator.trial.workspace import Workspace

LATE_SECONDS = 0.7
"""One rank comes, or ends its work, this much later than the other."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> list[dict[str, float]]:
    """Return the values that each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    two_ranks.start(__file__, folder, 2)
    return two_ranks.found(folder, 2)


def test_the_barrier_holds_the_host(seen):
    assert seen[0]["left"] >= seen[1]["came"]


def test_no_rank_leaves_before_a_stage_is_published(seen):
    assert seen[1]["published"]


def test_no_rank_loads_before_the_first_of_its_node_has(seen):
    assert seen[1]["loaded"]


def test_fetched_files_stay_until_the_last_rank_has_read_them(seen):
    assert seen[1]["fetched"]


def enqueue_only() -> None:
    """Make sums over ranks return at once, and reads of a value wait for all of them."""
    reduce, read, pending = dist.all_reduce, torch.Tensor.item, []

    def read_when_done(tensor):
        while pending:
            pending.pop().wait()
        return read(tensor)

    dist.all_reduce = lambda *args, **named: pending.append(reduce(*args, **named, async_op=True))
    torch.Tensor.item = read_when_done


def slow(file: Path) -> None:
    """Write a file after a while."""
    time.sleep(LATE_SECONDS)
    file.touch()


def published(ranks, folder: Path) -> bool:
    """Publish a stage slowly on rank 0; return True if it is there afterwards."""

    @contextmanager
    def directory():
        yield folder

    place = SimpleNamespace(publish=lambda directory, record: slow(directory / "published"))
    store = SimpleNamespace(
        scratch=SimpleNamespace(directory=directory), stages=SimpleNamespace(at=lambda _: place)
    )
    space = object.__new__(Workspace)
    space.ranks, space.store = ranks, store
    space.record = lambda stage, metrics: {"environment": {}}
    space.publish_metrics(SimpleNamespace(id="stage"), {})
    return (folder / "published").exists()


def loaded(ranks, folder: Path) -> bool:
    """Load slowly on rank 0; return True if rank 1 finds what it loaded."""
    with leader_first(ranks):
        if ranks.rank == 0:
            slow(folder / "loaded")
        return (folder / "loaded").exists()


def fetched(ranks, folder: Path) -> bool:
    """Fetch a file that is removed afterwards; return True if a slow rank 1 still reads it."""

    @contextmanager
    def opened():
        (folder / "fetched").touch()
        yield folder
        (folder / "fetched").unlink()

    remote = SimpleNamespace(files=SimpleNamespace(is_local=False), opened=opened)
    with opened_once(remote, ranks) as place:  # pyright: ignore[reportArgumentType]
        time.sleep(LATE_SECONDS * ranks.rank)
        return (place / "fetched").exists()


def scenario(ranks: Ranks, folder: Path) -> dict[str, float]:
    """Return what a rank sees; times are of a clock that both ranks share."""
    ranks.gather(0)
    enqueue_only()
    time.sleep(LATE_SECONDS * ranks.rank)
    came = time.monotonic()
    ranks.barrier()
    found = {"came": came, "left": time.monotonic()}
    found |= {each.__name__: each(ranks, folder) for each in (published, loaded, fetched)}
    ranks.barrier()
    return found
