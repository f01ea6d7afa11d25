"""Scratch: what ended processes left is removed, what a live one writes never."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.store import owners
from orchestrator.store.files import SCRATCH
from orchestrator.store.owners import Place, owned_name
from orchestrator.store.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "out"))


def scratch_of(store, **changed):
    """Make a directory as another process would: one that has ended, but for what is changed."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host, boot, namespace, _, unique = owned_name().rsplit(".", 4)
    owner = {"host": host, "boot": boot, "namespace": namespace, "pid": str(ended.pid)} | changed
    directory = Path(store.files.join(SCRATCH, ".".join([*owner.values(), unique])))
    directory.mkdir(parents=True)
    (directory / "model.bin").write_bytes(b"half")
    return directory


def test_only_leftovers_of_processes_that_are_gone_are_removed(store):
    gone = scratch_of(store)
    kept = [
        scratch_of(store, pid=str(os.getpid())),
        scratch_of(store, host="another-machine"),
        scratch_of(store, namespace="4026530000"),
        scratch_of(store, boot="00000000-0000-0000-0000-000000000000"),
    ]
    store.scratch.tidy()
    assert not gone.exists() and all(each.exists() for each in kept)


def test_nothing_is_certain_of_processes_that_this_one_cannot_see(store, monkeypatch):
    other = scratch_of(store)
    monkeypatch.setattr(owners, "sees_processes", lambda: False)
    store.scratch.tidy()
    assert other.exists()


def test_leftovers_of_unknown_owners_are_removed_after_a_week(store):
    old, busy, older_version = (
        scratch_of(store, host="dead-machine"),
        scratch_of(store, host="busy-machine"),
        Path(store.files.join(SCRATCH, "machine.12.0123456789abcdef")),
    )
    older_version.mkdir()
    mine = scratch_of(store, pid=str(os.getpid()))
    long_ago = time.time() - 8 * 86_400
    for path in (old / "model.bin", old, busy, older_version, mine / "model.bin", mine):
        os.utime(path, (long_ago, long_ago))
    store.scratch.tidy()
    assert store.files.names(SCRATCH) == {busy.name, mine.name}


def test_the_start_of_the_machine_stands_for_a_boot_id(monkeypatch):
    Place.current.cache_clear()
    monkeypatch.setattr(owners, "BOOT_ID", Path("nowhere"))
    monkeypatch.setattr(owners.psutil, "boot_time", lambda: 1234.4)
    try:
        assert Place.current().boot == "1234"
    finally:
        Place.current.cache_clear()
