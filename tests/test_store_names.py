"""Names that are read from a store are data: none of them leads out of it."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from orchestrator.results.keeping import RecordedWishes
from orchestrator.results.rows import put_row
from orchestrator.store.names import UnsafeNameError, is_safe
from orchestrator.store.store import Store

BAD = [
    *("../outside", "a/../../outside", "/outside", "C:/outside", "c:outside", "a\\..\\outside"),
    *("", ".", "..", "a//b", "a/./b", "a/", "\0", None, 7),
    *("\ud800", "x" * 256, "x/" * 512 + "x"),
]


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "place" / "out"))


@pytest.fixture
def outside(store):
    """A file beside the store, which a store must never read or remove."""
    file = Path(store.files.path).parent / "outside"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"mine")
    return file


def publish(store, stage="a"):
    with store.scratch.directory() as directory:
        (directory / "model.bin").write_bytes(b"weights")
        store.stages.at(stage).publish(directory, {"id": stage, "metrics": {}})
    return store.stages.at(stage).manifest()


def write(store, manifest, *folder):
    store.files.write_bytes(json.dumps(manifest).encode(), *folder, "manifest.json")


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_could_lead_out_is_refused(store, name):
    assert not is_safe(name)
    if isinstance(name, str):
        with pytest.raises(UnsafeNameError, match="leads out of the store") as refused:
            store.files.delete("stages", name)
        assert "\n" not in str(refused.value)
        assert store.files.try_read("stages", name) is None


@pytest.mark.parametrize("name", ["a", "a/b.json", "..a", "a..b", ".hidden", "a b", "ä", "ab:c"])
def test_ordinary_names_are_taken(name):
    assert is_safe(name)


@pytest.mark.parametrize("name", [name for name in BAD if isinstance(name, str)])
@pytest.mark.parametrize("where", ["files", "upload"])
def test_a_manifest_with_such_a_name_is_damaged(store, outside, name, where):
    manifest = publish(store)
    entry = {"size": 4, "sha256": hashlib.sha256(b"mine").hexdigest()}
    crafted = {"files": {name: entry}} if where == "files" else {"upload": name}
    write(store, {**manifest, **crafted}, "stages", "a")
    _, damaged = store.stages.inspect()
    assert "its manifest names" in damaged["a"] and "\n" not in damaged["a"]
    store.stages.drop_weights("a")
    store.stages.set_aside(damaged)
    assert store.stages.manifests() == {} and outside.read_bytes() == b"mine"
    publish(store)
    assert set(store.stages.manifests()) == {"a"}


@pytest.mark.parametrize("files", [None, [], ["a"], {"a": 1}, {"a": {}}, "a"])
def test_a_manifest_of_another_form_is_damaged(store, files):
    write(store, {**publish(store), "files": files}, "stages", "a")
    assert "its manifest" in store.stages.inspect()[1]["a"]


def test_a_manifest_that_is_nested_too_deep_is_damaged(store):
    store.files.write_bytes(b"[" * 100_000, "stages", "a", "manifest.json")
    assert store.stages.inspect()[1]["a"] == "its manifest is not a JSON object"


@pytest.mark.parametrize("after", [{"step": "../1"}, {"step": -1}, {}, "1", {"step": None}])
def test_a_checkpoint_that_adds_to_something_else_is_set_aside(store, outside, caplog, after):
    with store.scratch.directory() as directory:
        (directory / "rank-0").write_bytes(b"x")
        store.checkpoints.at("a", 2).publish(directory, {"step": 2, "part": "p"})
    write(store, {**store.checkpoints.at("a", 2).manifest(), "after": after}, "checkpoints/a/2")
    assert store.checkpoints.latest("a") is None
    assert "its manifest adds to no checkpoint" in caplog.text


def test_links_within_a_store_are_followed_and_others_are_not(store, outside):
    manifest = publish(store)
    folder = Path(store.files.join("stages", "a", manifest["upload"]))
    inner = folder / "model.bin"
    os.replace(inner, folder / "moved")
    inner.symlink_to(folder / "moved")
    assert store.stages.at("a").check(deep=True)[1] is None
    inner.unlink()
    outside.write_bytes(b"weights")
    inner.symlink_to(outside)
    assert "leads out of the store" in store.stages.inspect()[1]["a"]
    store.stages.drop_weights("a")
    assert outside.read_bytes() == b"weights"


def test_a_linked_folder_is_neither_read_nor_emptied(store, outside):
    manifest = publish(store)
    folder = Path(store.files.join("stages", "a", manifest["upload"]))
    (folder / "model.bin").rename(outside.parent / "model.bin")
    folder.rmdir()
    folder.symlink_to(outside.parent)
    assert "leads out of the store" in store.stages.inspect()[1]["a"]
    store.stages.set_aside(["a"])
    assert store.remove_leftovers({}) is None
    assert {path.name for path in outside.parent.iterdir()} == {"out", "outside", "model.bin"}


def test_a_users_link_at_the_top_of_a_store_is_followed(store, tmp_path):
    publish(store)
    Path(store.files.join("stages")).rename(tmp_path / "large-disk")
    Path(store.files.path, "stages").symlink_to(tmp_path / "large-disk")
    assert set(store.stages.manifests()) == {"a"}
    assert store.stages.at("a").check(deep=True)[1] is None


def test_an_out_dir_may_itself_be_a_link(store, tmp_path):
    publish(store)
    (tmp_path / "link").symlink_to(store.files.path)
    assert set(Store(str(tmp_path / "link")).stages.manifests()) == {"a"}


@pytest.mark.parametrize("field", ["stage_id", "stage_dir"])
def test_a_row_that_names_a_stage_outside_is_left_out(store, caplog, field):
    store.rows.put("good", {"stage_id": "a", "stage_dir": None})
    store.rows.put("bad", {"stage_id": "a", "stage_dir": None, field: "../outside"})
    assert set(store.rows.read()) == {"good"} and "bad.json" in caplog.text


def test_no_pickle_is_read_from_a_store():
    root = Path(__file__).parents[1]
    readers = ("core", "orchestrator/store", "orchestrator/trial", "orchestrator/inputs")
    for path in (path for folder in readers for path in (root / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert not any(word in text for word in ("torch.load(", "pickle.load", "allow_pickle"))


def test_a_record_that_cannot_be_read_may_ask_for_any_weights(store):
    manifest = publish(store)
    store.files.write_bytes(b'{"cells": []}', "sweeps", "whole.json")
    assert RecordedWishes(store).asking(manifest) == []
    store.files.write_bytes(b"{broken", "sweeps", "x.json")
    assert RecordedWishes(store).asking(manifest) == ["x"]


def test_a_row_without_its_labels_is_replaced(store):
    store.rows.put("key", {})
    row = {"status": "failed", "error": "e", "_interrupted": False, "_attempt": "a"}
    put_row(store.rows, "key", row)
    assert store.rows.get("key") == row
