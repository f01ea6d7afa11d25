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
from orchestrator.store.manifests import MANIFEST, content
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
    store.publish("stages", name, directory, {**RECORD, "id": name})


def weights_of(store, name="a"):
    return (*content("stages", name, store.manifest("stages", name)), "model.safetensors")


def test_a_published_stage_is_found_whole_by_another_process(store, tmp_path):
    publish(store, tmp_path)
    found = Store(store.root).stages()
    assert found["a"]["metrics"] == {"x": 1.5}
    assert store.damage("stages", "a", found["a"], deep=True) is None
    with store.opened("stages", "a") as directory:
        assert (directory / "model.safetensors").read_text() == "weights"


def test_a_path_below_the_root_is_opened_as_the_same_place(store, tmp_path):
    publish(store, tmp_path)
    below = Store(store.uri("stages"))
    assert json.loads(below.read_bytes("a", MANIFEST))["id"] == "a"


def test_killed_between_data_and_manifest_the_stage_does_not_exist(store, tmp_path):
    store.upload_all("stages", "a", make_stage(tmp_path / "half"))
    assert store.manifest("stages", "a") is None
    assert store.stages() == {}
    publish(store, tmp_path)
    assert store.stages().keys() == {"a"}


def test_looking_while_a_stage_is_being_uploaded_leaves_it_alone(store, tmp_path):
    # Another trial, or a dry run, lists the store between data and manifest.
    directory = make_stage(tmp_path / "slow")
    files = store.upload_all("stages", "a", directory)
    assert Store(store.root).stages() == {}
    store.write_bytes(json.dumps({**RECORD, "files": files}).encode(), "stages", "a", MANIFEST)
    found = store.stages()
    assert found.keys() == {"a"}
    assert store.damage("stages", "a", found["a"], deep=True) is None


def test_a_truncated_file_is_deleted_and_computed_again(store, tmp_path, caplog):
    publish(store, tmp_path)
    store.write_bytes(b"we", *weights_of(store))
    assert store.stages() == {}
    assert store.names("stages") == store.names("set-aside") == set()
    assert "deleted and computed again" in caplog.text and "set aside" not in caplog.text
    publish(store, tmp_path, "b")
    assert store.stages().keys() == {"b"}


def test_rewritten_contents_of_equal_size_are_found_by_hash(store, tmp_path):
    time.sleep(1 - time.time() % 1)  # S3 tells times in whole seconds: within one, nothing shows.
    publish(store, tmp_path)
    store.write_bytes(b"WEIGHTS", *weights_of(store))
    manifest = store.stages()["a"]
    assert store.damage("stages", "a", manifest, deep=False) is None
    why = store.damage("stages", "a", manifest, deep=True)
    assert why == "model.safetensors has changed since it was written"


def test_dropped_weights_leave_the_metrics(store, tmp_path):
    publish(store, tmp_path)
    weights = weights_of(store)
    assert store.exists(*weights)
    store.drop_weights("a")
    assert store.stages()["a"]["dropped"] is True
    assert not store.exists(*weights)
    publish(store, tmp_path, text="again")
    assert store.read_bytes(*weights_of(store)) == b"again"


def test_an_equal_evaluation_that_comes_later_changes_nothing(store, tmp_path):
    for value in (1.0, 2.0):
        (tmp_path / f"{value}").mkdir()
        store.publish("stages", "a", tmp_path / f"{value}", {**RECORD, "metrics": {"x": value}})
    assert store.stages()["a"]["metrics"] == {"x": 1.0}


def test_two_uploads_of_one_stage_never_mix(store, tmp_path):
    # The second begins before the first has its manifest, and ends after it: its bits differ, as
    # on a node with another number of threads.
    first, second = Store(store.root), Store(store.root)
    upload_all, ours = second.upload_all, make_stage(tmp_path / "ours", "ours")

    def slow(folder, name, directory):
        files = upload_all(folder, name, directory)
        first.publish("stages", "a", ours, RECORD)
        return files

    second.upload_all = slow
    second.publish("stages", "a", make_stage(tmp_path / "theirs", "theirs"), RECORD)
    manifest = store.stages()["a"]
    assert store.damage("stages", "a", manifest, deep=True) is None
    with store.opened("stages", "a") as directory:
        assert (directory / "model.safetensors").read_text() == "ours"
    assert store.names("stages/a") == {MANIFEST, manifest["upload"]}


def test_what_a_replaced_manifest_names_can_still_be_read(store, tmp_path, monkeypatch):
    publish(store, tmp_path)
    seen, weights = store.manifest("stages", "a"), weights_of(store)
    with monkeypatch.context() as both_end_at_once:
        both_end_at_once.setattr(Store, "manifest", lambda *_: None)
        publish(store, tmp_path, text="later")
    assert store.read_bytes(*weights_of(store)) == b"later"
    assert store.read_bytes(*weights) == b"weights"
    assert store.damage("stages", "a", seen, deep=True) is None


def test_rows_keep_nan_and_are_replaced_and_removed(store):
    store.put_row("k", {"perplexity": float("nan"), "n": 1})
    store.put_row("k", {"perplexity": float("inf"), "n": 2})
    assert store.rows() == {"k": {"perplexity": float("inf"), "n": 2}}
    for _ in range(2):
        store.delete_row("k")
        assert store.rows() == {}


def test_checkpoint_of_several_processes_exists_with_its_manifest(store, tmp_path):
    folder, parts = "checkpoints/a", []
    for rank in range(2):
        directory = tmp_path / f"rank{rank}"
        directory.mkdir()
        (directory / f"rank-{rank}").write_text(f"shard {rank}")
        parts.append(store.upload_all(folder, "7", directory))
        assert store.latest_checkpoint("a") is None
    store.publish_parts(folder, "7", parts, {"id": "a", "step": 7})
    assert store.latest_checkpoint("a") == "7"
    with store.opened(folder, "7") as directory:
        assert (directory / "rank-1").read_text() == "shard 1"
    store.delete_checkpoints("a")
    assert store.latest_checkpoint("a") is None


def test_an_empty_store_lists_nothing(store):
    assert store.stages() == {} and store.rows() == {}
    assert store.names("tokens") == set()
    assert not store.exists("sweep-store.json")


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
