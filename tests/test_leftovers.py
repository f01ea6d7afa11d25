"""Files that no manifest names: removed once it is certain that nobody writes them."""

import os
import time
from pathlib import Path

import pytest
from pyarrow import fs

from orchestrator.store.store import Store

WEEK = 7 * 86_400


@pytest.fixture(params=["local", "remote"])
def store(request, tmp_path):
    """A store on this disk, and one that is treated as if it were elsewhere."""
    store = Store(str(tmp_path / "out"))
    if request.param == "remote":
        store.files.filesystem = fs.SubTreeFileSystem("/", fs.LocalFileSystem())
        store.files.is_local = False
    return store


def weights(tmp_path, name="made"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "model.bin").write_bytes(b"weights")
    return tmp_path / name


def publish(store, tmp_path, stage="a"):
    record = {"id": stage, "metrics": {}}
    store.stages.at(stage).publish(weights(tmp_path, f"of-{stage}"), record)
    return store.stages.at(stage).manifest()["upload"]


def make_older(store, seconds):
    """Give all files of a store an earlier time."""
    moment = time.time() - seconds
    for path in Path(store.files.path).rglob("*"):
        os.utime(path, (moment, moment))


def removed(store):
    return store.remove_leftovers(store.stages.manifests())


def test_a_killed_upload_is_removed_after_a_week(store, tmp_path):
    publish(store, tmp_path)
    for place in (store.stages.at("b"), store.checkpoints.at("c", 7), store.stages.at("a")):
        place.upload(weights(tmp_path, place.folder.replace("/", "-") + place.name), "killed")
    make_older(store, WEEK - 60)
    assert removed(store) is None
    make_older(store, WEEK + 60)
    assert removed(store) == "removed 3 files (0.0 MB) that killed sweeps left in the store"
    assert not [*Path(store.files.path).rglob("killed")]
    assert set(store.stages.manifests()) == {"a"} and removed(store) is None
    assert store.stages.at("a").check(deep=True)[1] is None


def test_what_is_named_since_it_was_listed_stays(store, tmp_path):
    publish(store, tmp_path)
    make_older(store, 2 * WEEK)
    assert store.remove_leftovers({}) is None
    assert store.stages.at("a").check(deep=True)[1] is None


def test_a_drop_that_was_killed_half_way_is_finished_at_once(store, tmp_path, monkeypatch):
    upload = publish(store, tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr(type(store.files), "delete_folder", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.stages.drop_weights("a")
    assert upload in store.files.names("stages/a")
    assert removed(store).startswith("removed 1 files")
    assert upload not in store.files.names("stages/a")
    assert store.stages.manifests()["a"]["dropped"]


def test_files_of_older_versions_stay_unless_they_were_dropped(store, tmp_path):
    for stage in ("kept", "dropped"):
        files = store.files.upload_all(weights(tmp_path, stage), "stages", stage)
        named = {"files": files} if stage == "kept" else {"files": {}, "dropped": True}
        store.stages.at(stage).write_manifest({"id": stage, "metrics": {}, **named})
    make_older(store, 2 * WEEK)
    assert removed(store).startswith("removed 1 files")
    assert store.files.names("stages/kept") == {"manifest.json", "model.bin"}
    assert store.files.names("stages/dropped") == {"manifest.json"}


def test_folders_in_stages_of_older_versions_stay(store, tmp_path):
    made = weights(tmp_path)
    (made / "additional_chat_templates").mkdir()
    (made / "additional_chat_templates" / "tool_use.jinja").write_text("template")
    files = store.files.upload_all(made, "stages", "a")
    store.stages.at("a").write_manifest({"id": "a", "metrics": {}, "files": files})
    make_older(store, 2 * WEEK)
    assert removed(store) is None and store.remove_leftovers({}) is None
    assert store.stages.at("a").check(deep=True)[1] is None


def test_old_checkpoints_go_only_if_their_stage_is_stored(store, tmp_path):
    publish(store, tmp_path)
    for name in ("a", "a-1", "open"):
        store.checkpoints.at(name, 5).publish(weights(tmp_path, f"at-{name}"), {"step": 5})
    assert removed(store) is None
    make_older(store, WEEK + 60)
    assert removed(store).startswith("removed 2 files")
    assert store.checkpoints.latest("a") is None and store.checkpoints.latest("a-1") is None
    assert store.checkpoints.latest("open") is not None


def test_a_table_that_was_being_replaced_is_removed_after_a_week(store):
    store.files.write_bytes(b"whole", "results.parquet")
    store.files.write_bytes(b"half", ".results.parquet.0123abcd.tmp")
    assert removed(store) is None
    make_older(store, WEEK + 60)
    assert removed(store).startswith("removed 1 files")
    assert store.files.names("stages") == set() and store.files.exists("results.parquet")
    assert not store.files.exists(".results.parquet.0123abcd.tmp")


def test_the_age_is_told_by_the_clock_of_the_store(store, monkeypatch):
    now = store.files.now_ns()
    assert abs(now - time.time_ns()) < 60 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert store.files.now_ns() >= now


def test_an_error_of_listing_ends_no_sweep(store, monkeypatch):
    def fail(*_, **__):
        raise OSError("reset")

    monkeypatch.setattr(store.files, "infos", fail)
    assert store.remove_leftovers({}) is None
