import json
import runpy
import time
import uuid
from pathlib import Path

import pytest
from pyarrow import fs

from orchestrator.browse import BrowseConfig, export_all
from orchestrator.page.watched import Watched
from orchestrator.publish.model_directory import write_model
from orchestrator.store.manifests import MANIFEST
from orchestrator.store.published import Published
from orchestrator.store.store import Store

StoredSweep = runpy.run_path(str(Path(__file__).with_name("stored_sweep.py")))["StoredSweep"]

RECORD = {"id": "a", "kind": "prune", "metrics": {"x": 1.5}}


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("moto.server", reason="needs moto, of the extra `test`")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def store(server, monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"b{uuid.uuid4().hex[:12]}"
    query = f"scheme=http&endpoint_override={server}&region=us-west-2"
    with_rights = fs.FileSystem.from_uri(f"s3://{bucket}?{query}&allow_bucket_creation=true")[0]
    with_rights.create_dir(bucket)
    return Store(f"s3://{bucket}/sweep?{query}")


def make_stage(folder, text="weights"):
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_text(text)
    (folder / "config.json").write_text("{}")
    return folder


def publish(store, tmp_path, name="a", text="weights"):
    directory = make_stage(tmp_path / f"stage-{name}", text)
    store.stages.at(name).publish(directory, {**RECORD, "id": name})


def weights_of(store, name="a"):
    stage = store.stages.at(name)
    return (*stage.content(stage.manifest()), "model.safetensors")


def test_a_published_stage_is_found_whole_by_another_process(store, tmp_path):
    publish(store, tmp_path)
    found = Store(store.root).stages.manifests()
    assert found["a"]["metrics"] == {"x": 1.5}
    assert store.stages.at("a").damage(found["a"], deep=True) is None
    with store.stages.at("a").opened() as directory:
        assert (directory / "model.safetensors").read_text() == "weights"


def test_a_path_below_the_root_is_opened_as_the_same_place(store, tmp_path):
    publish(store, tmp_path)
    below = Store(store.files.uri("stages"))
    assert json.loads(below.files.read_bytes("a", MANIFEST))["id"] == "a"


def test_killed_between_data_and_manifest_the_stage_does_not_exist(store, tmp_path):
    store.stages.at("a").upload(make_stage(tmp_path / "half"), "u")
    assert store.stages.at("a").manifest() is None
    assert store.stages.manifests() == {}
    publish(store, tmp_path)
    assert store.stages.manifests().keys() == {"a"}


def test_looking_while_a_stage_is_being_uploaded_leaves_it_alone(store, tmp_path):
    # Another trial, or a dry run, lists the store between data and manifest.
    directory = make_stage(tmp_path / "slow")
    files = store.stages.at("a").upload(directory, "u")
    assert Store(store.root).stages.manifests() == {}
    store.stages.at("a").write_manifest({**RECORD, "files": files, "upload": "u"})
    found = store.stages.manifests()
    assert found.keys() == {"a"}
    assert store.stages.at("a").damage(found["a"], deep=True) is None


def test_a_truncated_file_is_deleted_and_computed_again(store, tmp_path, caplog):
    publish(store, tmp_path)
    store.files.write_bytes(b"we", *weights_of(store))
    assert store.stages.manifests() == {}
    assert store.files.names("stages/a") == store.files.names("set-aside") == set()
    assert "deleted and computed again" in caplog.text and "set aside" not in caplog.text
    publish(store, tmp_path, "b")
    assert store.stages.manifests().keys() == {"b"}


def test_rewritten_contents_of_equal_size_are_found_by_hash(store, tmp_path):
    time.sleep(1 - time.time() % 1)  # S3 tells times in whole seconds: within one, nothing shows.
    publish(store, tmp_path)
    store.files.write_bytes(b"WEIGHTS", *weights_of(store))
    manifest = store.stages.manifests()["a"]
    assert store.stages.at("a").damage(manifest, deep=False) is None
    why = store.stages.at("a").damage(manifest, deep=True)
    assert why == "model.safetensors has changed since it was written"


def test_dropped_weights_leave_the_metrics(store, tmp_path):
    publish(store, tmp_path)
    weights = weights_of(store)
    assert store.files.exists(*weights)
    store.stages.drop_weights("a")
    assert store.stages.manifests()["a"]["dropped"] is True
    assert not store.files.exists(*weights)
    publish(store, tmp_path, text="again")
    assert store.files.read_bytes(*weights_of(store)) == b"again"


def test_an_equal_evaluation_that_comes_later_changes_nothing(store, tmp_path):
    for value in (1.0, 2.0):
        (tmp_path / f"{value}").mkdir()
        store.stages.at("a").publish(tmp_path / f"{value}", {**RECORD, "metrics": {"x": value}})
    assert store.stages.manifests()["a"]["metrics"] == {"x": 1.0}


def test_two_uploads_of_one_stage_never_mix(store, tmp_path):
    # The second begins before the first has its manifest, and ends after it: its bits differ, as
    # on a node with another number of threads.
    first, second = Store(store.root), Store(store.root)
    upload_all, ours = second.files.upload_all, make_stage(tmp_path / "ours", "ours")

    def slow(directory, *parts):
        files = upload_all(directory, *parts)
        first.stages.at("a").publish(ours, RECORD)
        return files

    second.files.upload_all = slow
    second.stages.at("a").publish(make_stage(tmp_path / "theirs", "theirs"), RECORD)
    manifest = store.stages.manifests()["a"]
    assert store.stages.at("a").damage(manifest, deep=True) is None
    with store.stages.at("a").opened() as directory:
        assert (directory / "model.safetensors").read_text() == "ours"
    assert store.files.names("stages/a") == {MANIFEST, manifest["upload"]}


def test_what_a_replaced_manifest_names_can_still_be_read(store, tmp_path, monkeypatch):
    publish(store, tmp_path)
    seen, weights = store.stages.at("a").manifest(), weights_of(store)
    with monkeypatch.context() as both_end_at_once:
        both_end_at_once.setattr(Published, "manifest", lambda *_: None)
        publish(store, tmp_path, text="later")
    assert store.files.read_bytes(*weights_of(store)) == b"later"
    assert store.files.read_bytes(*weights) == b"weights"
    assert store.stages.at("a").damage(seen, deep=True) is None


def test_rows_keep_nan_and_are_replaced(store):
    store.rows.put("k", {"perplexity": float("nan"), "n": 1})
    store.rows.put("k", {"perplexity": float("inf"), "n": 2})
    assert store.rows.read() == {"k": {"perplexity": float("inf"), "n": 2}}
    assert store.rows.get("k") == {"perplexity": float("inf"), "n": 2}
    assert store.rows.get("other") is None


def test_checkpoint_of_several_processes_exists_with_its_manifest(store, tmp_path):
    checkpoint, parts = store.checkpoints.at("a", 7), []
    for rank in range(2):
        directory = tmp_path / f"rank{rank}"
        directory.mkdir()
        (directory / f"rank-{rank}").write_text(f"shard {rank}")
        parts.append(checkpoint.upload(directory, "u"))
        assert store.checkpoints.latest("a") is None
    checkpoint.publish_parts(parts, "u", {"id": "a", "step": 7})
    assert store.checkpoints.latest("a").parts == [checkpoint]
    with checkpoint.opened() as directory:
        assert (directory / "rank-1").read_text() == "shard 1"
    store.checkpoints.delete("a")
    assert store.checkpoints.latest("a") is None


def test_an_empty_store_lists_nothing(store):
    assert store.stages.manifests() == {} and store.rows.read() == {}
    assert store.files.names("tokens") == set()
    assert not store.files.exists("sweep-store.json")


def test_a_remote_sweep_is_watched_and_its_model_taken(store, tmp_path):
    sweep = StoredSweep(
        store.root, [{"stage_id": "a", "stage_dir": "stages/a", "perplexity": 40.0}]
    )
    seen = Watched(store.root)
    before = seen.refresh()
    assert seen.rows() == [] and seen.refresh() == before
    sweep.finish(0)
    sweep.beat()
    assert seen.refresh() != before and [row["perplexity"] for row in seen.rows()] == [40.0]
    assert seen.progress()["note"].startswith("1 of 1 cells done")
    publish(store, tmp_path)
    write_model(seen, seen.rows(), tmp_path / "model", "huggingface")
    assert (tmp_path / "model" / "model.safetensors").read_text() == "weights"
    with pytest.raises(ValueError, match="name a local directory with --export-dir"):
        export_all([seen], BrowseConfig((store.root,), export=True))
    assert (
        export_all([seen], BrowseConfig((store.root,), export=True, export_dir=str(tmp_path / "e")))
        == 0
    )
    assert (tmp_path / "e" / "tables.tex").exists()
