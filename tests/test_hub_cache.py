"""Models and texts by hub name, from a cache fabricated as the hub's client lays it out.

The client reads its settings when it is imported, so each check runs in a process of its own.
"""

from __future__ import annotations

import gzip
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from core.identity import MovedError
from core.texts import NAMED, resolve_text

ROOT = Path(__file__).resolve().parents[1]
COMMIT, CONVERTED = "a" * 40, "b" * 40
WIKITEXT, C4 = (NAMED[name].revision for name in ("wikitext2", "c4"))


_cache = runpy.run_path(str(Path(__file__).with_name("hub_cache.py")))
add_snapshot, copy_into = _cache["add_snapshot"], _cache["copy_into"]


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_opt_dir) -> Path:
    """HF_HOME with models and data sets of the names that users type."""
    home = tmp_path_factory.mktemp("hf")
    hub = home / "hub"
    copy_into(add_snapshot(hub, "org/tiny", "model", "main", COMMIT), tiny_opt_dir, "*")
    # Like facebook/opt-125m: pickled weights on main, safetensors in the bot's pull request.
    old = add_snapshot(hub, "org/old", "model", "main", COMMIT)
    copy_into(old, tiny_opt_dir, "config.json", "token*")
    (old / "pytorch_model.bin").write_bytes(b"pickle")
    converted = add_snapshot(hub, "org/old", "model", "refs/pr/7", CONVERTED)
    copy_into(converted, tiny_opt_dir, "model.safetensors")
    bare = add_snapshot(hub, "org/bare", "model", "main", COMMIT)
    copy_into(bare, tiny_opt_dir, "config.json")

    wikitext = add_snapshot(hub, "Salesforce/wikitext", "dataset", "main", WIKITEXT)
    for part in ("train", "test"):
        rows = ["", f" = {part} = \n", "", f" the {part} part \n"]
        path = wikitext / "wikitext-2-raw-v1" / f"{part}-00000-of-00001.parquet"
        datasets.Dataset.from_dict({"text": rows}).to_parquet(path)
    c4 = add_snapshot(hub, "allenai/c4", "dataset", "main", C4)
    (c4 / "en").mkdir()
    for shard, count in (
        ("train.00000-of-01024", 5),
        ("train.00001-of-01024", 4),
        ("validation.00000-of-00008", 1200),
    ):
        rows = [
            {"text": f"{shard[:11]} {n}", "timestamp": "2019-04-25T12:57:54Z"} for n in range(count)
        ]
        lines = "\n".join(json.dumps(row | {"url": "u"}) for row in rows)
        (c4 / "en" / f"c4-{shard}.json.gz").write_bytes(gzip.compress(lines.encode()))
    ref = "refs/convert/parquet"
    ptb = add_snapshot(hub, "ptb-text-only/ptb_text_only", "dataset", ref, COMMIT)
    for part, count in (("test", NAMED["ptb"].parts["test"].num_rows), ("train", 2)):
        rows = ["no it was n't", "<unk> monday"] + ["a"] * (count - 2)
        path = ptb / "penn_treebank" / part / "0000.parquet"
        datasets.Dataset.from_dict({"sentence": rows}).to_parquet(path)
    return home


def run(home: Path, code: str) -> list:
    """What the code prints as JSON lines, in a process without a network."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    settings = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | settings,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


MODELS = """
import json, torch
from core.models import describe_model, load_model, load_tokenizer, resolve_model

def show(*args):
    try:
        source = resolve_model(*args)
        model = load_model(source, torch.float32)
        ids = load_tokenizer(source)("ka lo")["input_ids"]
        facts = describe_model(source)
        total = sum(p.detach().double().sum().item() for p in model.parameters())
        print(json.dumps([source.revision, source.identity, facts.num_blocks, ids[0], total]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def test_models_by_name_and_revision(home):
    names = [
        ("org/tiny",),
        ("org/tiny", COMMIT),
        (f"org/tiny@{COMMIT}",),
        ("org/old",),
        ("org/bare",),
        ("org/tiny", "no-such-branch"),
        ("facebook/opt-125m",),
        ("embeded",),
    ]
    calls = "".join(f"show(*{name!r})\n" for name in names)
    tiny, commit, at, old, bare, branch, absent, typo = run(home, MODELS + calls)
    assert tiny[:4] == [COMMIT, COMMIT, 2, 2]
    assert commit == at == tiny
    # The same weights, found in the conversion, which is part of the identity.
    assert old == [COMMIT, f"{COMMIT}+{CONVERTED}", *tiny[2:]]
    for message in (bare, branch, absent, typo):
        assert message.startswith("--models ") and "\n" not in message
        assert "fetch its config, tokenizer and safetensors" in message
    assert "hf download facebook/opt-125m" in absent
    assert "did you mean 'embedded'" in typo


TEXTS = """
import json
from core.texts import documents, joined, resolve_text

def show(name, role):
    try:
        text = resolve_text(name, role)
        print(json.dumps([text.identity, len(documents(text)), joined(text)]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def test_texts_by_short_name(home):
    names = [
        ("wikitext2", "evaluation"),
        ("wikitext2", "calibration"),
        ("c4", "calibration"),
        ("c4", "finetune"),
        ("c4", "evaluation"),
        ("ptb", "evaluation"),
        ("wikitext2:validation", "evaluation"),
        ("ptb:validation", "finetune"),
        ("ptb", "finetune"),
    ]
    calls = "".join(f"show(*{name!r})\n" for name in names)
    test, train, first, second, held_out, ptb, absent, no_part, changed = run(home, TEXTS + calls)
    assert test[1:] == [4, "\n\n = test = \n\n\n\n\n the test part \n"]
    file = "wikitext-2-raw-v1/test-00000-of-00001.parquet"
    assert test[0].startswith(f"Salesforce/wikitext@{WIKITEXT}:{file} ")
    assert "the train part" in train[2]
    assert first[1:] == [5, "\n\n".join(f"train.00000 {n}" for n in range(5))]
    assert second[1:] == [4, "\n\n".join(f"train.00001 {n}" for n in range(4))]
    assert held_out[1:] == [1200, " ".join(f"validation. {n}" for n in range(1100))]
    assert ptb[1] == 3_761 and ptb[2].startswith("no it was n't <unk> monday a a")
    assert len({found[0] for found in (test, train, first, second, held_out, ptb)}) == 6
    assert absent.startswith("--eval.texts wikitext2:validation: ") and "fetch" in absent
    assert no_part.startswith("--finetune.text ptb:validation: ") and "\n" not in absent + no_part
    assert f"--revision {WIKITEXT}" in absent
    assert changed == (
        "--finetune.text ptb: the hub has changed it: 2 rows instead of 42,068; give a local file"
    )


@pytest.mark.parametrize("name", ["c4", "ptb", "wikitext2"])
@pytest.mark.parametrize("answer", [None, MovedError("404 Client Error")])
def test_a_text_that_the_hub_has_moved_is_said_so(monkeypatch, name, answer):
    def hub_commit(*_):
        if answer is not None:
            raise answer

    monkeypatch.setattr("core.texts.hub_commit", hub_commit)
    with pytest.raises(ValueError, match="the hub has moved it") as caught:
        resolve_text(name, "evaluation")
    message, named = str(caught.value), NAMED[name]
    assert named.revision in message and named.repos[0] in message and "\n" not in message


def test_the_default_sampling_of_c4_is_documents(home):
    code = """
from core.data import default_sampling, resolve_text
print('"' + default_sampling(resolve_text("c4", "calibration")) + '"')
"""
    assert run(home, code) == ["documents"]


def test_the_hub_is_asked_for_its_conversion_of_pickled_weights(monkeypatch):
    from types import SimpleNamespace

    from core import model_source

    asked = {}

    class Api:
        def get_repo_discussions(self, repo, **filters):
            asked.update(filters, repo=repo)
            yield SimpleNamespace(num=9, title="Fix a typo")
            yield SimpleNamespace(num=4, title="Adding `safetensors` variant of this model")

    def hub_commit(repo, file, revision, kind):
        commits = {("config.json", None): COMMIT, ("model.safetensors", "refs/pr/4"): CONVERTED}
        return commits.get((file, revision))

    monkeypatch.setattr(model_source, "HfApi", Api)
    monkeypatch.setattr(model_source, "hub_commit", hub_commit)
    source = model_source.resolve_model("org/never-fetched")
    assert (source.revision, source.weights_revision) == (COMMIT, CONVERTED)
    # Anyone may open a pull request: only the hub's own is taken.
    assert asked["author"] == "SFconvertbot" and asked["repo"] == "org/never-fetched"
