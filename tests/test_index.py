"""Below a URI a store of many stages is known after few requests, and never from an index alone."""

import os
import runpy
import shutil
import time
from pathlib import Path

import pytest

from orchestrator.page.watched import Watched
from orchestrator.store.index import FEW, packed, unpacked
from orchestrator.store.store import MARKER, Store

BENCHES = Path(__file__).resolve().parents[1] / "experiments" / "benches"
slow_store = runpy.run_path(str(BENCHES / "slow_files.py"))["slow_store"]

MANY = FEW + 20
STAGES, ROWS = "index/stages.arrow", "index/rows.arrow"


def publish(store, name, text="weights", **record):
    with store.scratch.directory() as directory:
        (directory / "model.bin").write_text(text)
        store.stages.at(name).publish(directory, {"id": name, "kind": "prune", **record})


def make_old(folder):
    """Let all files of a store be an hour old, the manifests by a second less."""
    now = time.time() - 3600
    for path in Path(folder).rglob("*"):
        if path.is_file():
            os.utime(path, (now, now + (path.name == "manifest.json")))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A store of many old stages and rows, and a young one of each."""
    place = tmp_path_factory.mktemp("store")
    store = Store(str(place))
    with pytest.MonkeyPatch.context() as without_waiting:
        without_waiting.setattr(os, "fsync", lambda handle: None)
        for i in range(MANY):
            publish(store, f"s{i}", metrics={"number": i})
            store.rows.put(f"k{i}", {"number": i, "nll": float("inf")})
        make_old(place)
        publish(store, "young", metrics={"number": -1})
        store.rows.put("young", {"number": -1})
    return place


@pytest.fixture
def folder(template, tmp_path):
    return shutil.copytree(template, tmp_path / "store")


@pytest.fixture
def indexed(folder):
    store, _ = slow_store(folder)
    found(store)
    store.save_indexes()
    assert all((folder / name).exists() for name in (STAGES, ROWS))
    return folder


def found(store):
    return store.stages.inspect(), store.rows.read()


def manifest_of(folder, stage="s3"):
    return folder / "stages" / stage / "manifest.json"


def weights_of(folder, stage="s3"):
    return next((folder / "stages" / stage).rglob("model.bin"))


def test_without_an_index_a_stage_takes_its_manifest_alone(folder):
    store, slow = slow_store(folder)
    assert found(store) == found(Store(str(folder)))
    read = slow.asked["read"]
    assert read <= 2 * (2 * (MANY + 1)) + 4, "two requests for each manifest and each row"
    assert slow.requests - read <= 2, "and one for each folder"


def test_with_an_index_many_stages_take_few_requests(indexed):
    store, slow = slow_store(indexed)
    assert found(store) == found(Store(str(indexed)))
    # Two listings, two indexes, and the two that are too young to have an entry.
    assert slow.requests <= 2 + 2 * 2 + 2 * 2
    found(store)
    store.save_indexes()
    assert slow.asked["write"] == 0, "nothing is written again for so few"


def test_what_a_process_has_read_it_does_not_read_again(folder):
    store, slow = slow_store(folder)
    before = found(store)
    once = slow.requests
    assert found(store) == before and slow.requests - once <= 2 + 3 * 2 + 3 * 2


def test_what_another_sweep_does_is_seen_though_the_index_is_old(indexed):
    other, (store, _) = Store(str(indexed)), slow_store(indexed)
    publish(other, "new", metrics={"number": 5})
    other.stages.drop_weights("s1")
    other.rows.put("k1", {"number": 111})
    weights_of(indexed, "s2").write_text("half")
    weights_of(indexed, "s3").write_text("WEIGHTS")
    weights_of(indexed, "s4").unlink()
    manifest_of(indexed, "s5").write_text("{")
    manifest_of(indexed, "s6").write_text(manifest_of(indexed, "s7").read_text())
    weights_of(indexed, "s8").unlink()
    manifest_of(indexed, "s8").unlink()
    (indexed / "rows" / "k2.json").unlink()
    (whole, damaged), rows = found(store)
    assert ((whole, damaged), rows) == found(other)
    assert whole["new"]["metrics"] == {"number": 5} and whole["s1"]["dropped"]
    assert damaged == {
        "s2": "model.bin has 4 bytes instead of 7",
        "s3": "model.bin has changed since it was written",
        "s4": "model.bin is missing",
        "s5": "its manifest is not a JSON object",
        "s6": "the manifest of another stage",
    }
    assert "s8" not in whole and rows["k1"] == {"number": 111} and "k2" not in rows


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 100, None])
def test_a_damaged_index_is_made_again(indexed, content):
    for name in (STAGES, ROWS):
        whole = (indexed / name).read_bytes()
        (indexed / name).write_bytes(whole[:-1] if content is None else content)
    store, _ = slow_store(indexed)
    assert found(store) == found(Store(str(indexed)))
    store.save_indexes()
    again, slow = slow_store(indexed)
    found(again)
    assert slow.asked["read"] <= 8


def test_a_file_that_may_still_change_within_one_time_has_no_entry(indexed):
    entries = unpacked((indexed / STAGES).read_bytes())
    assert len(entries) == MANY and "young/manifest.json" not in entries


def test_a_file_from_the_future_makes_no_other_file_old(folder):
    coming = time.time() + 86_400
    os.utime(manifest_of(folder, "young"), (coming, coming))
    publish(Store(str(folder)), "younger")
    store, _ = slow_store(folder)
    found(store)
    store.save_indexes()
    entries = unpacked((folder / STAGES).read_bytes())
    assert len(entries) == MANY and "younger/manifest.json" not in entries


def test_an_index_that_names_other_contents_counts_only_for_the_listed_time_and_size(indexed):
    path = indexed / ROWS
    entries = unpacked(path.read_bytes())
    (time_, size), row = entries["k0.json"]
    lies = {"k0.json": ((time_ + 1, size), {"number": 99}), "k1.json": ((time_, size + 1), {})}
    path.write_bytes(packed({**entries, **lies}))
    store, _ = slow_store(indexed)
    assert store.rows.read() == Store(str(indexed)).rows.read()


def test_a_store_that_cannot_be_written_is_read(folder, monkeypatch):
    store, _ = slow_store(folder)
    assert found(store) == found(Store(str(folder)))

    def refuse(*_):
        raise PermissionError(13, "not yours")

    monkeypatch.setattr(store.files, "write_bytes", refuse)
    store.save_indexes()
    assert not (folder / "index").exists()


def test_a_local_store_has_no_index(folder):
    store = Store(str(folder))
    found(store)
    store.save_indexes()
    assert not (folder / "index").exists()


def test_a_page_reads_an_old_store_with_few_requests(indexed, monkeypatch):
    (indexed / MARKER).write_text("{}")
    store, slow = slow_store(indexed)
    monkeypatch.setattr("orchestrator.page.watched.Store", lambda _: store)
    watched = Watched(str(indexed))
    watched.read_manifests()
    assert len(watched.stored) == len(watched.manifests) == MANY + 1
    assert slow.requests <= 20
    assert watched.read_manifests() == {} and not watched.read_rows()
