"""Claims of stages: one process computes, the others know it, and nobody waits for the dead."""

import gc
import multiprocessing
import os
import runpy
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs as fs
import pytest

from core.ranks import Ranks
from orchestrator.cluster.diagnosis import Failure
from orchestrator.cluster.failed_cells import give_up_on_next
from orchestrator.store import claims
from orchestrator.store.claims import FOLDER, Claims
from orchestrator.store.stages import Stages
from orchestrator.store.store import Store
from orchestrator.trial import walk as walks

_stand_in = runpy.run_path(str(Path(__file__).with_name("stand_in_walk.py")))
job_of, walk = _stand_in["job_of"], _stand_in["walk"]
ELSEWHERE = "another-machine.1.0123456789abcdef"
"""An owner of whose process this machine knows nothing."""


@pytest.fixture(params=["local", "remote"])
def store(request, tmp_path):
    """A store on this disk, and one that is treated as if it were elsewhere."""
    store = Store(str(tmp_path / "out"))
    (tmp_path / "out" / FOLDER).mkdir(parents=True)
    if request.param == "remote":
        store.files.filesystem = fs.SubTreeFileSystem("/", fs.LocalFileSystem())
        store.files.is_local = False
    return store


def write_claim(store, stage, owner, seconds_ago=0.0):
    """Write a claim as another machine does, some time ago by the store's clock."""
    store.files.write_note(b"{}", FOLDER, f"{stage}.{owner}")
    then = time.time() - seconds_ago
    os.utime(store.files.join(FOLDER, f"{stage}.{owner}"), (then, then))


def test_a_stage_is_free_until_somebody_takes_it_and_free_again_once_it_is_given_up(store):
    first, second = Claims(store.files), Claims(store.files)
    assert first.take("s") is None
    assert str(os.getpid()) in (second.take("s") or "")
    assert second.take("s") and second.take("s")
    assert second.take("other") is None
    second.release()
    first.release()
    assert second.take("s") is None and first.take("s")
    first.close()
    second.close()
    assert not store.files.names(FOLDER)


def test_of_three_that_write_at_once_one_gets_the_stage_in_the_end(store, monkeypatch):
    contenders = [Claims(store.files) for _ in range(3)]
    together, write = threading.Barrier(3), type(store.files).write_note

    def write_together(files, *args):
        write(files, *args)
        together.wait(60)

    def take(claims):
        found = claims.take(stage)
        got.append((found is None, claims.owner))

    for stage in map(str, range(8)):
        got = []
        with monkeypatch.context() as patch:
            patch.setattr(type(store.files), "write_note", write_together)
            threads = [threading.Thread(target=take, args=(each,)) for each in contenders]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        winners = [owner for won, owner in got if won]
        # The lowest gives up too if the others are slow to go; then the next look decides.
        assert winners in ([], [min(each.owner for each in contenders)])
        holders = [each for each in contenders if each.take(stage) is None]
        assert len(holders) == 1 and (not winners or holders[0].owner == winners[0])
        for each in contenders:
            each.release()
    assert not store.files.names(FOLDER)


def test_a_claim_that_nobody_writes_again_lapses_by_the_store_s_clock(store, monkeypatch):
    mine = Claims(store.files)
    write_claim(store, "fresh", ELSEWHERE, claims.LEASE_SECONDS - 30)
    write_claim(store, "old", ELSEWHERE, claims.LEASE_SECONDS + 5)
    write_claim(store, "forgotten", ELSEWHERE, 3600)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert mine.take("fresh") is not None
    assert store.files.names(FOLDER) == {f"fresh.{ELSEWHERE}"}, "whoever finds them removes them"
    assert mine.take("old") is None
    mine.close()


def test_a_claim_that_is_seen_unchanged_for_its_lease_has_lapsed(store, monkeypatch):
    mine, now = Claims(store.files), time.monotonic()
    write_claim(store, "s", ELSEWHERE, -3600)
    assert mine.take("s") is not None
    monkeypatch.setattr(time, "monotonic", lambda: now + claims.LEASE_SECONDS - 1)
    assert mine.take("s") is not None
    write_claim(store, "s", ELSEWHERE, -3590)
    monkeypatch.setattr(time, "monotonic", lambda: now + 2 * claims.LEASE_SECONDS - 2)
    assert mine.take("s") is not None, "it was written again"
    monkeypatch.setattr(time, "monotonic", lambda: now + 3 * claims.LEASE_SECONDS)
    assert mine.take("s") is None
    mine.close()


def test_a_claim_is_written_again_while_it_is_held_and_not_after(store, monkeypatch):
    monkeypatch.setattr(claims, "RENEW_SECONDS", 0.01)
    mine, written, write = Claims(store.files), threading.Semaphore(0), store.files.write_note

    def note(*args):
        write(*args)
        written.release()

    monkeypatch.setattr(store.files, "write_note", note)
    assert mine.take("s") is None
    for _ in range(4):
        assert written.acquire(timeout=60)
    mine.release()
    assert not store.files.names(FOLDER)
    time.sleep(0.05)
    assert not store.files.names(FOLDER)
    mine.close()
    assert mine.renewing is not None
    mine.renewing.join(60)


def test_a_store_that_takes_no_claims_shares_nothing_and_blocks_nobody(tmp_path, caplog):
    (tmp_path / FOLDER).write_text("not a folder")
    job, computed = job_of(tmp_path, methods=("wanda",)), []
    walk(job, computed.append)
    assert len(computed) == len(job.stages)
    assert len([r for r in caplog.records if "cannot be claimed" in r.message]) == 1


# Walks --------------------------------------------------------------------------------------------


def walk_noting(job, note, seconds=0.0, skew=0.0):
    """Walk; add a line to the file `note` for each stage that begins, which takes some seconds."""
    clock = time.time
    time.time = lambda: clock() + skew

    def compute(stage):
        with note.open("a") as file:
            file.write(f"{stage.id}\n")
        time.sleep(seconds)

    walk(job, compute)


def forked(*args):
    """Start a walk in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=walk_noting, args=args)
    gc.freeze()  # What earlier tests left behind must not be collected in the fork.
    process.start()
    gc.unfreeze()
    return process


def assert_shared(job, note, processes):
    """Each stage was computed once in sum, all is stored, and no claim is left."""
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)
    computed = note.read_text().split()
    assert sorted(computed) == sorted(stage.id for stage in job.stages)
    store = Store(job.store_root)
    assert store.stages.manifests().keys() == {*computed}
    assert len(store.rows.read()) == len(job.cells)
    assert not store.files.names(FOLDER)


def test_equal_walks_at_a_time_compute_each_stage_once_whatever_their_clocks_say(tmp_path):
    job, note = job_of(tmp_path / "out", methods=("wanda", "magnitude")), tmp_path / "note"
    skews = (0.0, 3600.0, -3600.0)
    processes = [forked(job, note, 0.02, skew) for skew in skews]
    assert_shared(job, note, processes)


def test_equal_walks_that_drop_weights_compute_each_stage_once(tmp_path):
    job, note = job_of(tmp_path / "out", methods=("wanda",)), tmp_path / "note"
    job = replace(job, drop=frozenset(stage.id for stage in job.stages))
    processes = [forked(job, note, 0.02), forked(job, note, 0.02)]
    assert_shared(job, note, processes)


def test_a_killed_owner_holds_up_nobody(tmp_path):
    job, note = job_of(tmp_path / "out", methods=("wanda",)), tmp_path / "note"
    owner = forked(job, note, 3600.0)
    while not note.exists() or not note.read_text():
        assert owner.is_alive()
        time.sleep(0.01)
    (left,) = Store(job.store_root).files.names(FOLDER)
    assert left.startswith(note.read_text().strip())
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    note.unlink()
    assert_shared(job, note, [forked(job, note)])


def test_a_walk_runs_free_stages_first_then_says_whom_it_waits_for_and_reads_what_they_made(
    tmp_path, caplog, monkeypatch
):
    job = job_of(tmp_path, methods=("wanda", "magnitude"))
    store, other = Store(job.store_root), Claims(Store(job.store_root).files)
    taken = next(stage for stage in job.stages if stage.work.changes_masks)
    below = {stage.id for stage in job.stages if stage.parent == taken.id}
    assert other.take(taken.id) is None
    computed, slept = [], []

    def publish(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            with store.scratch.directory() as directory:
                record = {**taken.head(), "metrics": {"seconds": 0.0}}
                store.stages.at(taken.id).publish(directory, record)
            other.release()

    monkeypatch.setattr(walks, "time", SimpleNamespace(sleep=publish))
    walk(job, lambda stage: computed.append((stage.id, len(slept))))
    assert taken.id not in dict(computed)
    assert {waited for stage, waited in computed if stage in below} == {3}
    assert sum(waited == 0 for _, waited in computed) > len(job.stages) / 3
    lines = [record.message for record in caplog.records if "waiting for" in record.message]
    assert len(lines) == 1 and str(os.getpid()) in lines[0] and "prune of wanda" in lines[0]


def test_the_limit_of_perplexity_waits_for_what_another_sweep_evaluates(tmp_path, monkeypatch):
    job = job_of(tmp_path, methods=("wanda",), regimes=("finetune",))
    job = replace(job, limits=replace(job.limits, stop_perplexity=5.0))
    store, other = Store(job.store_root), Claims(Store(job.store_root).files)
    trained = next(s for s in job.stages if s.work.trains and s.parent != job.root.id)
    taken = next(
        stage
        for stage in job.stages
        if stage.parent == trained.parent and not stage.work.stores_weights
    )
    assert other.take(taken.id) is None

    def publish(seconds):
        with store.scratch.directory() as directory:
            metrics = {"seconds": 0.0, "perplexity": 9.0}
            store.stages.at(taken.id).publish(directory, {**taken.head(), "metrics": metrics})
        other.release()

    computed = []
    monkeypatch.setattr(walks, "time", SimpleNamespace(sleep=publish))
    walk(job, lambda stage: computed.append(stage.id))
    assert computed and taken.id not in computed and trained.id not in computed
    assert "stopped" in {row["status"] for row in store.rows.read().values()}


def test_a_group_that_died_is_blamed_for_the_stage_that_it_was_at(tmp_path, monkeypatch):
    job = replace(job_of(tmp_path, methods=("wanda", "magnitude")), group="g")
    store = Store(job.store_root)
    other, mine = Claims(store.files, "another"), Claims(store.files, job.group)
    first, later = (
        next(s for s in job.stages if s.method == method and s.work.changes_masks)
        for method in ("wanda", "magnitude")
    )
    assert other.take(first.id) is None and mine.take(later.id) is None
    begun = claims.take_over(store.files, job.group)
    assert begun == {later.id}
    assert store.files.names(FOLDER) == {f"{first.id}.{other.owner}"}
    looked_at = []
    with monkeypatch.context() as watched:
        watched.setattr(Stages, "check", lambda _, stage: looked_at.append(stage) or (None, None))
        left = give_up_on_next(job, store, Failure("died"), begun)
    assert {*looked_at} == {*job.by_id}, "a store may hold thousands of other stages"
    assert left is not None
    given_up = {c.id for c in job.cells} - {c.id for c in left.cells}
    assert given_up == {c.id for c in job.cells if later.id in c.all_stages()}
    assert {row["cell_id"] for row in store.rows.read().values()} == given_up
    for each in (other, mine):
        each.close()


class ThreadRanks(Ranks):
    """A rank among the threads of this process."""

    def gather(self, value):
        """Exchange values through a list that all threads share."""
        self.group.values[self.rank] = value
        self.group.barrier.wait(60)
        values = [*self.group.values]
        self.group.barrier.wait(60)
        return values

    def barrier(self):
        """Wait for the others."""
        self.gather(None)


class Group:
    """Two threads."""

    def __init__(self):
        self.values, self.barrier = [None, None], threading.Barrier(2)


def test_all_ranks_of_a_group_follow_the_first(tmp_path):
    job, computed = job_of(tmp_path, methods=("wanda",)), {}

    def walk_rank(group, name, rank):
        ranks = ThreadRanks(rank, 2, Ranks.current().device, group)
        computed[name, rank] = mine = []
        walk(job, lambda stage: mine.append(stage.id), ranks=ranks)

    groups = [Group(), Group()]
    threads = [
        threading.Thread(target=walk_rank, args=(group, i, rank))
        for i, group in enumerate(groups)
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert computed[i, 0] == computed[i, 1]
    assert sorted(computed[0, 0] + computed[1, 0]) == sorted(stage.id for stage in job.stages)
