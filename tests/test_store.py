"""The store: a stage exists whole or not at all, rows keep what is not finite."""

import json
import math
import os
import threading
from pathlib import Path

import pytest

from orchestrator.store.files import SCRATCH
from orchestrator.store.local_files import describe_files
from orchestrator.store.published import Published
from orchestrator.store.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "out"))


def publish(store, name="abc", content=b"weights", **record):
    with store.scratch.directory() as directory:
        (directory / "model.bin").write_bytes(content)
        store.stages.at(name).publish(directory, {"id": name, "metrics": {}, **record})


def weights_of(store, name="abc"):
    """Path of the weights of a stage or of a step of a checkpoint, wherever it keeps them."""
    return next(Path(store.files.join("stages", name)).rglob("model.bin"))


def publish_as_older_versions(store, name="abc"):
    """Put the weights beside the manifest, as on every local store before."""
    folder = Path(store.files.join("stages", name))
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"weights")
    record = {"id": name, "metrics": {}, "files": describe_files(folder)}
    (folder / "manifest.json").write_text(json.dumps(record))


def test_opening_a_store_writes_nothing(store):
    assert store.stages.manifests() == {} and store.rows.read() == {}
    assert not Path(store.files.path).exists()


def test_a_published_stage_is_found_with_its_files(store):
    publish(store)
    assert set(store.stages.manifests()) == {"abc"}
    with store.stages.at("abc").opened() as directory:
        assert (directory / "model.bin").read_bytes() == b"weights"


def test_a_stage_of_older_versions_is_read_and_dropped(store):
    publish_as_older_versions(store)
    assert set(store.stages.manifests()) == {"abc"}
    publish(store, content=b"later")
    with store.stages.at("abc").opened() as directory:
        assert (directory / "model.bin").read_bytes() == b"weights"
    store.stages.drop_weights("abc")
    assert store.files.names("stages/abc") == {"manifest.json"}
    publish(store, content=b"later")
    with store.stages.at("abc").opened() as directory:
        assert (directory / "model.bin").read_bytes() == b"later"


def test_a_stage_of_older_versions_without_manifest_is_set_aside(store):
    publish_as_older_versions(store)
    Path(store.files.join("stages", "abc", "manifest.json")).unlink()
    assert store.stages.manifests() == {}
    assert any(name.startswith("abc-") for name in store.files.names("set-aside"))


def test_a_truncated_file_is_found_and_set_aside(store):
    publish(store)
    weights_of(store).write_bytes(b"wei")
    assert store.stages.manifests() == {}
    assert any(name.startswith("abc-") for name in store.files.names("set-aside"))
    assert store.files.names("stages") == set()


def test_changed_content_of_equal_size_is_found_by_its_hash(store):
    publish(store)
    file = weights_of(store)
    before = file.stat()
    file.write_bytes(b"wEights")
    manifest = store.stages.at("abc").manifest()
    assert "changed" in store.stages.at("abc").damage(manifest, deep=False), "younger than it"
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.stages.at("abc").damage(manifest, deep=False) is None
    assert "changed" in store.stages.at("abc").damage(manifest, deep=True)


def test_what_another_sweep_drops_meanwhile_is_not_taken_for_damage(store, monkeypatch):
    publish(store, metrics={"perplexity": 3.0})
    real = Published.manifest

    def stale_once(stage):
        monkeypatch.setattr(Published, "manifest", real)
        found = real(stage)
        store.stages.drop_weights(stage.name)
        return found

    monkeypatch.setattr(Published, "manifest", stale_once)
    assert store.stages.manifests()["abc"]["dropped"]
    assert store.files.names("set-aside") == set()


def test_damage_is_told_before_anything_is_set_aside(store):
    publish(store)
    publish(store, "whole")
    file = weights_of(store)
    file.write_bytes(b"wei")
    whole, damaged = store.stages.inspect()
    assert set(whole) == {"whole"}
    assert damaged == {"abc": "model.bin has 3 bytes instead of 7"}
    assert file.exists() and store.files.names("set-aside") == set()
    store.stages.set_aside(damaged)
    assert not file.exists() and len(store.files.names("set-aside")) == 1


def test_what_another_sweep_has_computed_again_meanwhile_is_not_set_aside(store):
    publish(store)
    Path(store.files.join("stages", "abc", "manifest.json")).unlink()
    _, damaged = store.stages.inspect()
    publish(store, content=b"again")
    store.stages.set_aside(damaged)
    assert set(store.stages.manifests()) == {"abc"}


def test_a_stage_that_is_being_replaced_is_not_taken_for_damage(store, monkeypatch):
    # Between two renames its manifest is not there; then the new one's directory is.
    publish(store)
    real = Published.manifest

    def missed_once(stage):
        monkeypatch.setattr(Published, "manifest", real)

    monkeypatch.setattr(Published, "manifest", missed_once)
    assert set(store.stages.manifests()) == {"abc"}
    assert store.files.names("set-aside") == set()


def test_a_manifest_that_is_something_else_is_no_manifest(store):
    publish(store)
    Path(store.files.join("stages", "abc", "manifest.json")).write_text("[]")
    assert store.stages.manifests() == {}


def test_leftovers_of_a_killed_writer_are_not_stages(store):
    publish(store)
    aside = Path(store.files.join("stages", ".aside-def-123"))
    aside.mkdir()
    (aside / "model.bin").write_bytes(b"half")
    assert set(store.stages.manifests()) == {"abc"}


def test_the_first_of_two_equal_stages_stays(store):
    publish(store, content=b"first")
    publish(store, content=b"other")
    assert weights_of(store).read_bytes() == b"first"
    assert len(store.files.names("stages/abc")) == 2, "the manifest and one folder"


def test_of_two_equal_stages_without_weights_the_first_stays(store):
    for value in (3.0, 4.0):
        with store.scratch.directory() as directory:
            record = {"id": "abc", "metrics": {"perplexity": value}}
            store.stages.at("abc").publish(directory, record)
    assert store.stages.manifests()["abc"]["metrics"] == {"perplexity": 3.0}


def test_a_stage_is_on_the_disk_before_it_is_seen(store, monkeypatch):
    synced, real = {}, os.fsync

    def sync(handle):
        synced[os.fstat(handle).st_ino] = store.stages.ids() and store.stages.at("abc").manifest()
        real(handle)

    monkeypatch.setattr(os, "fsync", sync)
    publish(store)
    stage = Path(store.files.join("stages", "abc"))

    def seen(path):
        return bool(synced[path.stat().st_ino])

    inner = (weights_of(store), weights_of(store).parent, stage / "manifest.json")
    assert [seen(path) for path in inner] == [False] * 3
    assert seen(stage) and seen(stage.parent), "its name, once it is there"


def test_many_writers_of_one_stage_leave_one_whole_stage(store):
    def work(i):
        publish(store, content=bytes([i]) * 100_000)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifest = store.stages.manifests()["abc"]
    assert store.stages.at("abc").damage(manifest, deep=True) is None


def test_dropping_weights_keeps_metrics_and_allows_a_new_copy(store):
    publish(store, metrics={"perplexity": 3.0})
    store.stages.drop_weights("abc")
    manifest = store.stages.manifests()["abc"]
    assert manifest["dropped"] and manifest["metrics"] == {"perplexity": 3.0}
    assert store.files.names("stages/abc") == {"manifest.json"}
    publish(store)
    assert "dropped" not in store.stages.manifests()["abc"]


def test_rows_keep_nan_and_infinity(store):
    store.rows.put("key", {"perplexity": math.inf, "nll": math.nan})
    row = store.rows.read()["key"]
    assert row["perplexity"] == math.inf and math.isnan(row["nll"])


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{", b"\0\0\0", b"[]", b""])
def test_an_unreadable_row_is_left_out(store, caplog, content):
    store.rows.put("good", {"a": 1})
    Path(store.files.join("rows", "bad.json")).write_bytes(content)
    assert set(store.rows.read()) == {"good"}
    assert "bad.json" in caplog.text


def test_a_row_that_another_sweep_removes_meanwhile_is_left_out(store, monkeypatch, caplog):
    store.rows.put("good", {"a": 1})
    listed = store.files.stamps("rows", ".json") | {"gone.json": (0, 0)}
    monkeypatch.setattr(store.files, "stamps", lambda *_: listed)
    assert set(store.rows.read()) == {"good"} and not caplog.text


def test_newest_whole_checkpoint_wins(store):
    for step in (5, 10):
        with store.scratch.directory() as directory:
            (directory / "rank-0.safetensors").write_bytes(b"x" * step)
            store.checkpoints.at("s", step).publish(directory, {"step": step})
    assert store.checkpoints.latest("s").parts == [store.checkpoints.at("s", 10)]
    newest = Path(store.files.join("checkpoints/s/10"))
    next(newest.rglob("rank-0.safetensors")).write_bytes(b"y" * 10)
    assert store.checkpoints.latest("s").parts == [store.checkpoints.at("s", 5)]
    store.checkpoints.delete("s")
    assert store.checkpoints.latest("s") is None


def test_manifest_lists_every_file_with_its_hash(store):
    publish(store)
    manifest = json.loads(store.files.read_bytes("stages", "abc", "manifest.json"))
    assert manifest["files"]["model.bin"]["size"] == len(b"weights")
    assert len(manifest["files"]["model.bin"]["sha256"]) == 64


def test_a_checkpoint_that_is_being_read_outlives_its_removal(store):
    with store.scratch.directory() as directory:
        (directory / "rank-0.safetensors").write_bytes(b"moments")
        store.checkpoints.at("s", 5).publish(directory, {"step": 5})
    linked, record = store.checkpoints.linked("s")
    store.checkpoints.delete("s")
    assert store.checkpoints.steps("s") == set()
    assert (linked / "rank-0.safetensors").read_bytes() == b"moments" and record["step"] == 5
    assert store.checkpoints.linked("s") is None


def test_files_that_are_being_read_outlive_a_drop(store):
    publish(store)
    with store.stages.at("abc").opened() as directory:
        store.stages.drop_weights("abc")
        assert (directory / "model.bin").read_bytes() == b"weights"
    assert store.files.names(SCRATCH) == set()
    with pytest.raises(FileNotFoundError, match="stages/abc has no files"):
        store.stages.at("abc").opened().__enter__()


def test_a_store_that_cannot_be_written_is_read(store, monkeypatch):
    publish(store)

    def refuse(*_):
        raise PermissionError(13, "not yours")

    monkeypatch.setattr(os, "link", refuse)
    with store.stages.at("abc").opened() as directory:
        assert (directory / "model.bin").read_bytes() == b"weights"


def test_what_another_writer_has_not_named_yet_is_not_set_aside(store, tmp_path):
    publish(store)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "model.bin").write_bytes(b"weights")
    files = store.stages.at("abc").upload(tmp_path / "theirs", "other")
    store.stages.at("abc").set_aside("test")
    store.stages.at("abc").publish_parts([files], "other", {"id": "abc", "metrics": {}})
    assert store.stages.at("abc").check(deep=True)[1] is None


def test_a_read_that_fails_because_the_stage_was_dropped_is_no_error(store, monkeypatch):
    # An object store may find a file, and have none when its bytes are asked for.
    publish(store)

    def dropped_meanwhile(*_):
        store.stages.drop_weights("abc")
        raise OSError("no such key")

    monkeypatch.setattr(store.files, "digest", dropped_meanwhile)
    manifest, why = store.stages.at("abc").check(deep=True)
    assert manifest["dropped"] and why is None


def test_a_read_that_fails_by_itself_is_an_error(store, monkeypatch):
    publish(store)

    def fail(*_):
        raise OSError("reset")

    monkeypatch.setattr(store.files, "digest", fail)
    with pytest.raises(OSError, match="reset"):
        store.stages.at("abc").check(deep=True)
