"""Models and texts by hub name, from a cache fabricated as the hub's client lays it out.

The client reads its settings when it is imported, so all names are read in another process.
"""

from __future__ import annotations

import gzip
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest

from core.hub.identity import MovedError
from core.models.sources import resolve_model
from core.texts.named_texts import NAMED
from core.texts.sources import resolve_text

ROOT = Path(__file__).resolve().parents[1]
COMMIT, CONVERTED = "a" * 40, "b" * 40
WIKITEXT, C4 = (NAMED[name].revision for name in ("wikitext2", "c4"))


_cache = runpy.run_path(str(Path(__file__).with_name("hub_cache.py")))
add_snapshot, copy_into = _cache["add_snapshot"], _cache["copy_into"]
save_like_opt, UNPIN_PTB = _cache["save_like_opt"], _cache["UNPIN_PTB"]
MAIN = "--include '*.json' --include '*.txt' --include '*.model' --include 'model*.safetensors'"
CONVERSION = "--revision refs/pr/N --include 'model*.safetensors*'"


@pytest.fixture(scope="module")
def home(tmp_path_factory, tiny_opt_dir) -> Path:
    """HF_HOME with models and data sets of the names that users type."""
    home = tmp_path_factory.mktemp("hf")
    hub = home / "hub"
    copy_into(add_snapshot(hub, "org/tiny", "model", "main", COMMIT), tiny_opt_dir, "*")
    # Like facebook/opt-125m: pickled weights on main, safetensors in the bot's pull request.
    for name in ("org/old", "facebook/opt-125m", "org/pickled"):
        save_like_opt(add_snapshot(hub, name, "model", "main", COMMIT), tiny_opt_dir)
    for name in ("org/old", "facebook/opt-125m"):
        converted = add_snapshot(hub, name, "model", "refs/pr/7", CONVERTED)
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
    for part in ("test", "train"):
        rows = ["no it was n't", "<unk> monday", "a", "a"]
        path = ptb / "penn_treebank" / part / "0000.parquet"
        datasets.Dataset.from_dict({"sentence": rows}).to_parquet(path)
    return home


def run(home: Path, code: str) -> list:
    """Return the JSON lines that the code prints in a process without a network."""
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
from core.models.description import describe_model
from core.models.loading import load_model
from core.models.tokenizers import load_tokenizer
from core.models.sources import resolve_model

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


TEXTS = """
import json
from core.texts.content import documents, joined
from core.texts.sources import resolve_text

def show(name, role):
    try:
        text = resolve_text(name, role)
        print(json.dumps([text.identity, len(documents(text)), joined(text)]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""
SAMPLING = """
from core.texts.windows import default_sampling
print('"' + default_sampling(resolve_text("c4", "calibration")) + '"')
"""
MODEL_NAMES = [
    ("org/tiny",),
    ("org/tiny", COMMIT),
    (f"org/tiny@{COMMIT}",),
    ("org/old",),
    ("facebook/opt-125m",),
    ("org/bare",),
    ("org/tiny", "no-such-branch"),
    ("facebook/opt-1.3b",),
    ("org/pickled",),
    ("embeded",),
]
TEXT_NAMES = [
    ("wikitext2", "evaluation"),
    ("wikitext2", "calibration"),
    ("c4", "calibration"),
    ("c4", "finetune"),
    ("c4", "evaluation"),
    ("ptb", "evaluation"),
    ("wikitext2:validation", "evaluation"),
    ("ptb:validation", "finetune"),
]


@pytest.fixture(scope="module")
def shown(home) -> list:
    """The output of another process: all models, then all texts, then C4's sampling."""
    code = [MODELS, *(f"show(*{name!r})\n" for name in MODEL_NAMES), TEXTS]
    code += ['show("ptb", "finetune")\n', UNPIN_PTB, *(f"show(*{name!r})\n" for name in TEXT_NAMES)]
    return run(home, "".join([*code, SAMPLING]))


def test_models_by_name_and_revision(shown):
    tiny, commit, at, old, opt, *messages = shown[: len(MODEL_NAMES)]
    assert tiny[:4] == [COMMIT, COMMIT, 2, 2]
    assert commit == at == tiny
    # The same weights, found in the conversion, which is part of the identity.
    assert opt == old == [COMMIT, f"{COMMIT}+{CONVERTED}", *tiny[2:]]
    bare, branch, absent, pickled, typo = messages
    for message in messages:
        assert message.startswith("--models ") and "\n" not in message
    for message, command in (
        (bare, f"hf download org/bare {MAIN}; or"),
        (branch, f"hf download org/tiny --revision no-such-branch {MAIN}; or"),
        # Whose main branch has no safetensors needs them from the bot's pull request besides.
        (absent, f"hf download facebook/opt-1.3b {MAIN} && hf download facebook/opt-1.3b "),
        (absent, f" && hf download facebook/opt-1.3b {CONVERSION} (N: on the model's page"),
        (pickled, f" && hf download org/pickled {CONVERSION} (N: on the model's page"),
    ):
        assert command in message
    assert absent.startswith(
        "--models facebook/opt-1.3b (no such directory): not in the hub's cache, and the hub "
    )
    assert absent.endswith("; or give a local directory")
    assert "did you mean 'embedded'" in typo


def test_texts_by_short_name(shown):
    found = shown[len(MODEL_NAMES) : -1]
    changed, test, train, first, second, held_out, ptb, absent, no_part = found
    assert test[1:] == [4, "\n\n = test = \n\n\n\n\n the test part \n"]
    file = "wikitext-2-raw-v1/test-00000-of-00001.parquet"
    assert test[0].startswith(f"Salesforce/wikitext@{WIKITEXT}:{file} ")
    assert "the train part" in train[2]
    assert first[1:] == [5, "\n\n".join(f"train.00000 {n}" for n in range(5))]
    assert second[1:] == [4, "\n\n".join(f"train.00001 {n}" for n in range(4))]
    assert held_out[1:] == [1200, " ".join(f"validation. {n}" for n in range(1100))]
    assert ptb[1:] == [4, "no it was n't <unk> monday a a"]
    assert len({found[0] for found in (test, train, first, second, held_out, ptb)}) == 6
    assert absent.startswith("--eval.texts wikitext2:validation: ") and "fetch" in absent
    assert no_part.startswith("--finetune.text ptb:validation: ") and "\n" not in absent + no_part
    assert absent.endswith(
        "fetch with a network: hf download Salesforce/wikitext "
        "wikitext-2-raw-v1/validation-00000-of-00001.parquet --repo-type dataset "
        f"--revision {WIKITEXT}; or give a copy of a text's file as NAME=FILE"
    )
    assert (
        "hf download ptb-text-only/ptb_text_only penn_treebank/validation/0000.parquet "
        "--repo-type dataset --revision refs/convert/parquet;"
    ) in no_part
    assert changed == (
        "--finetune.text ptb: the hub has changed it: not the rows that papers read; give a copy "
        "of the original as ptb=FILE"
    )


@pytest.mark.parametrize("name", ["c4", "ptb", "wikitext2"])
@pytest.mark.parametrize("answer", [None, MovedError("404 Client Error")])
def test_a_text_that_the_hub_has_moved_is_said_so(monkeypatch, name, answer):
    def hub_commit(*_):
        if answer is not None:
            raise answer

    monkeypatch.setattr("core.texts.sources.hub_commit", hub_commit)
    with pytest.raises(ValueError, match="the hub has moved it") as caught:
        resolve_text(name, "evaluation")
    message, named = str(caught.value), NAMED[name]
    assert named.revision in message and named.repos[0] in message and "\n" not in message
    assert message.endswith(f"; give a copy of that file as {name}=FILE")


def test_the_default_sampling_of_c4_is_documents(shown):
    assert shown[-1] == "documents"


def test_the_hub_is_asked_for_its_conversion_of_pickled_weights(monkeypatch):
    from core.models import sources as model_source

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


@pytest.mark.parametrize(
    ("kind", "repo", "file", "revision"),
    [
        ("model", "facebook/opt-125m", "config.json", None),
        ("model", "facebook/opt-125m", "model.safetensors", "refs/pr/7"),
        ("dataset", "ptb-text-only/ptb_text_only", "penn_treebank/test/0000.parquet", "refs/c/p"),
        ("dataset", "allenai/c4", "en/part.json.gz", "c" * 40),
    ],
)
def test_what_was_fetched_by_commit_is_found_by_name_without_a_network(
    monkeypatch, tmp_path, kind, repo, file, revision
):
    from huggingface_hub import constants

    from core.hub import identity

    commit = revision if revision == "c" * 40 else COMMIT
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    answer = SimpleNamespace(commit_hash=commit)
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *_, **__: answer)
    assert identity.hub_commit(repo, file, revision, kind) == commit

    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    with pytest.raises(ConnectionError, match="no network"):
        identity.hub_commit(repo, file, revision, kind)
    # The client downloads by commit, and leaves no note of the name.
    folder = tmp_path / f"{kind}s--{repo.replace('/', '--')}" / "snapshots" / commit
    (folder / file).parent.mkdir(parents=True)
    (folder / file).touch()
    assert identity.hub_commit(repo, file, revision, kind) == commit


def test_a_model_that_the_hub_does_not_know_is_not_to_be_fetched(monkeypatch):
    def hub_commit(*_):
        raise MovedError("404 Client Error")

    monkeypatch.setattr("core.models.sources.hub_commit", hub_commit)
    with pytest.raises(ValueError, match="no such model or revision .404 Client Error.") as caught:
        resolve_model("facebook/opt-125x")
    assert "hf download" not in str(caught.value) and "\n" not in str(caught.value)
