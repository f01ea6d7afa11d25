"""Identities and names of models: equal models are one model, and a store keeps what it knows."""

import contextlib
import json
import runpy
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from core.models import local_identity
from core.models.sources import EMBEDDED_DIR, resolve_model
from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.preparation import prepare, write_record
from orchestrator.results.record import recorded_models
from orchestrator.store.store import Store

HERE = Path(__file__).resolve().parent
walk = runpy.run_path(str(HERE / "walked.py"))["walk"]
MADE = runpy.run_path(str(HERE / "record_stored_sweep.py"))


def copied(model: Path, place: Path, **config) -> Path:
    """A copy of a model with changed keys in its config; None removes a key."""
    shutil.copytree(model, place)
    settings = {**json.loads((place / "config.json").read_text()), **config}
    settings = {key: value for key, value in settings.items() if value is not None}
    (place / "config.json").write_text(json.dumps(settings))
    return place


def identity(place: Path) -> str:
    return resolve_model(str(place)).identity


@pytest.mark.parametrize(
    "change",
    [
        {"transformers_version": "4.30.0"},
        {"transformers_version": None},
        {"architectures": ["OPTModel"], "_name_or_path": "elsewhere"},
        {"dtype": None, "torch_dtype": "float32"},
        {"use_cache": False, "init_std": 1, "dropout": 0.5, "attention_dropout": 0.1},
        {"eos_token_id": [2, 3], "max_length": 7, "num_labels": 4},
        {"layer_norm_eps": 1.0},
    ],
)
def test_a_key_that_changes_no_number_leaves_the_identity(tiny_opt_dir, tmp_path, change):
    base = copied(tiny_opt_dir, tmp_path / "base", layer_norm_eps=1)
    assert identity(copied(base, tmp_path / "edited", **change)) == identity(base)


@pytest.mark.parametrize(
    "change",
    [
        {"activation_function": "gelu"},
        {"do_layer_norm_before": False},
        {"max_position_embeddings": 64},
        {"num_attention_heads": 2},
        {"pad_token_id": 7},
        {"a_key_that_nobody_knows": 1},
        {"nested": {"rope_theta": 2.5}},
    ],
)
def test_a_key_that_may_change_numbers_changes_the_identity(tiny_opt_dir, tmp_path, change):
    assert identity(copied(tiny_opt_dir, tmp_path / "edited", **change)) != identity(tiny_opt_dir)


def test_weights_tokenizer_and_place_count_by_their_content(tiny_opt_dir, tmp_path):
    assert identity(copied(tiny_opt_dir, tmp_path / "copy")) == identity(tiny_opt_dir)
    for name in ("model.safetensors", "tokenizer.json"):
        other = copied(tiny_opt_dir, tmp_path / name)
        with (other / name).open("ab") as stream:
            stream.write(b" ")
        assert identity(other) != identity(tiny_opt_dir)


def test_a_copy_of_the_embedded_model_is_that_model_whatever_wrote_its_config(tmp_path):
    edited = copied(EMBEDDED_DIR, tmp_path / "copy", transformers_version="5.30.0")
    assert identity(edited) == resolve_model("embedded").identity


# Stores -------------------------------------------------------------------------------------------


@pytest.fixture
def texts(write_texts, tmp_path, monkeypatch, one_thread):
    """The texts of a small sweep, in the directory that this process is in."""
    write_texts(tmp_path)
    monkeypatch.chdir(tmp_path)


def small(model: str, *further: str) -> SweepConfig:
    """A sweep of one pruned cell and the dense model."""
    flags = ["--models", model, "--methods", "magnitude", "--regimes", "oneshot", "--out-dir"]
    flags += ["out", "--sparsities", "0.5", "--eval.texts", "test.txt", "--eval.seq-len", "32"]
    return parse(SweepConfig(), [*flags, "--eval.max-windows", "2", *further], "")


@contextlib.contextmanager
def earlier_version():
    """Identities of local models as versions gave them that hashed all bytes of a config."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.models.sources.local_identity", local_identity.former_identity)
        yield


def test_a_store_of_an_earlier_version_is_found_and_stays_found_after_an_edit(
    tiny_opt_dir, tmp_path, texts
):
    copied(tiny_opt_dir, tmp_path / "m")
    with earlier_version():
        before = walk(small("m"))
        write_record(before)
    assert len(before.cells) == 2
    again = prepare(small("m"))
    assert not again.cells and again.id == before.id
    write_record(again)
    shutil.rmtree(tmp_path / "m")
    copied(tiny_opt_dir, tmp_path / "m", transformers_version="5.99.0", use_cache=False)
    edited = prepare(small("m"))
    assert not edited.cells and edited.id == before.id
    assert edited.plan.models["m"].identity != identity(tmp_path / "m")


def test_another_model_at_the_same_place_is_another_model(tiny_opt_dir, tmp_path, texts):
    copied(tiny_opt_dir, tmp_path / "m")
    with earlier_version():
        write_record(walk(small("m")))
    shutil.rmtree(tmp_path / "m")
    copied(tiny_opt_dir, tmp_path / "m", activation_function="gelu")
    assert len(prepare(small("m")).cells) == 2


def test_a_recorded_store_is_found_under_the_former_identity(tmp_path, monkeypatch):
    with tarfile.open(MADE["ARCHIVE"]) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    # Without its exception the embedded model is named by today's rule, as any other.
    monkeypatch.setattr(local_identity, "RENAMED", {})
    (recorded,) = recorded_models(Store("out"))
    assert recorded["identity"] != resolve_model("embedded").identity
    sweep = prepare(parse(SweepConfig(), [*MADE["FLAGS"], "--keep", "none"], ""))
    assert sweep.cells == () and sweep.needed == set()


# Names --------------------------------------------------------------------------------------------


def test_every_spelling_of_a_path_gives_the_same_rows(tiny_opt_dir, tmp_path, texts):
    copied(tiny_opt_dir, tmp_path / "m")
    sweeps = [
        prepare(small(name))
        for name in ("m", "./m", "m/", f"../{tmp_path.name}/m", str(tmp_path / "m"))
    ]
    assert [[*sweep.plan.models] for sweep in sweeps] == [["m"]] * 5
    assert len({tuple(sorted(sweep.plan.row_keys())) for sweep in sweeps}) == 1


@pytest.mark.parametrize("name", ["./m", "ABSOLUTE"])
def test_a_store_keeps_the_spelling_that_it_knows(tiny_opt_dir, tmp_path, texts, name):
    place = str(copied(tiny_opt_dir, tmp_path / "m"))
    name = place if name == "ABSOLUTE" else name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.inputs.models.name_in_results", lambda source: source.name)
        before = walk(small(name))
        write_record(before)
    assert [*before.plan.models] == [name]
    for spelling in ("m", "./m", place):
        again = prepare(small(spelling))
        assert [*again.plan.models] == [name] and not again.cells


def test_two_spellings_of_one_model_are_refused_as_typed(tiny_opt_dir, tmp_path, texts):
    copied(tiny_opt_dir, tmp_path / "m")
    config = small("m")
    with pytest.raises(ValueError, match=r"--models \./m: is the same model as m; name each once"):
        prepare(replace(config, grid=replace(config.grid, models=("m", "./m"))))
