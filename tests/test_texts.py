"""The text that a name stands for, and its rows."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from dataclasses import replace

import datasets
import pytest

from core.hub.identity import file_hash
from core.texts.content import documents, joined
from core.texts.named_texts import FLAGS, NAMED, rows_hash
from core.texts.sources import resolve_text, same_text


@pytest.fixture(autouse=True)
def table_cache(tmp_path, monkeypatch):
    """Tables that `datasets` prepares stay in the test's own folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")


def write(path, content: str):
    path.write_bytes(content.encode())
    return str(path)


@pytest.mark.parametrize(
    ("role", "part"),
    [("calibration", "calibration"), ("finetune", "train"), ("evaluation", "test")],
)
def test_the_role_picks_the_part_of_the_embedded_text(role, part):
    text = resolve_text("embedded", role)
    assert text.part == f"embedded {part}"
    assert same_text(text, resolve_text(f"embedded:{part}", "evaluation"))
    assert text.identity == resolve_text(f"embedded:{part}", "evaluation").identity


def test_parts_of_the_embedded_text_are_disjoint():
    parts = [resolve_text(f"embedded:{part}", "finetune") for part in NAMED["embedded"].parts]
    rows = [set(documents(part)) for part in parts]
    assert sum(len(part) for part in rows) == len(set.union(*rows)) > 5000
    assert not any(same_text(a, b) for a in parts for b in parts if a is not b)


def test_embedded_documents_are_joined_by_an_empty_line():
    text = resolve_text("embedded", "evaluation")
    assert joined(text) == "\n\n".join(documents(text))
    assert len(joined(text)) > 90_000


def test_plain_text_is_taken_as_it_is(tmp_path):
    text = resolve_text(write(tmp_path / "a.utf8", "One.\n\n  \nTwo \u2028 lines.\n"), "finetune")
    assert joined(text) == "One.\n\n  \nTwo \u2028 lines.\n"
    assert list(documents(text)) == ["One.", "Two \u2028 lines."]


def test_raw_rows_keep_their_newline_and_blank_lines_are_empty_rows(tmp_path):
    text = resolve_text(write(tmp_path / "a.raw", " \n = A = \n \n b\x85c \n"), "evaluation")
    assert list(documents(text)) == ["", " = A = \n", "", " b\x85c \n"]
    assert joined(text) == "\n\n = A = \n\n\n\n\n b\x85c \n"


def test_rows_of_jsonl(tmp_path):
    content = '{"text": "a\\nb", "n": 1}\n\n{"text": "c"}\n'
    text = resolve_text(write(tmp_path / "a.jsonl", content), "calibration")
    assert list(documents(text)) == ["a\nb", "c"] and joined(text) == "a\nb\n\nc"


def test_rows_of_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": ["a", "", "b"], "n": [1, 2, 3]}).to_parquet(path)
    text = resolve_text(str(path), "calibration")
    assert list(documents(text)) == ["a", "", "b"] and joined(text) == "a\n\n\n\nb"
    # Another table at the same path is another text.
    datasets.Dataset.from_dict({"text": ["other"]}).to_parquet(path)
    again = resolve_text(str(path), "calibration")
    assert joined(again) == "other" and again.identity != text.identity


def test_reading_a_table_is_silent(tmp_path, capfd):
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(path)
    capfd.readouterr()
    joined(resolve_text(str(path), "calibration"))
    assert "".join(capfd.readouterr()) == ""


def test_identity_is_that_of_content_and_rule(tmp_path):
    one = resolve_text(write(tmp_path / "one.txt", "same"), "calibration")
    copy = resolve_text(write(tmp_path / "copy.txt", "same"), "evaluation")
    raw = resolve_text(write(tmp_path / "one.raw", "same"), "calibration")
    other = resolve_text(write(tmp_path / "other.txt", "else"), "calibration")
    assert one.identity == copy.identity and same_text(one, copy)
    assert one.identity != raw.identity and same_text(one, raw)
    assert one.identity != other.identity and not same_text(one, other)
    assert str(tmp_path) not in one.identity


@pytest.mark.parametrize("role", FLAGS)
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("wikitex2", "did you mean 'wikitext2'"),
        ("embedded:tset", "did you mean 'embedded:test'"),
        ("c4:nonsense", "known are c4:calibration, c4:train, c4:selection, c4:validation"),
        ("nowhere/a.txt", "no such file"),
        ("missing.jsonl", "no such file"),
    ],
)
def test_unknown_texts_are_refused_in_one_line(role, name, remedy):
    with pytest.raises(ValueError, match=remedy) as caught:
        resolve_text(name, role)
    message = str(caught.value)
    assert message.startswith(f"--{FLAGS[role]} ") and name in message and "\n" not in message


def test_empty_files_and_directories_are_refused(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        resolve_text(write(tmp_path / "a.txt", ""), "finetune")
    with pytest.raises(ValueError, match="is a folder"):
        resolve_text(str(tmp_path), "finetune")


def test_unreadable_content_is_refused_in_one_line(tmp_path):
    path = tmp_path / "bad.txt"
    path.write_bytes(b"caf\xe9")
    table = tmp_path / "b.parquet"
    datasets.Dataset.from_dict({"body": ["a"], "text": [1]}).to_parquet(table)
    cases = {
        str(path): "not UTF-8 text .byte 3",
        write(tmp_path / "a.jsonl", json.dumps({"text": "a"}) + "\nnonsense\n"): "line 2 is not",
        write(tmp_path / "b.jsonl", '{"body": "a"}'): "row 1 has no column 'text'",
        write(tmp_path / "a.parquet", "nonsense"): "cannot be read",
        str(table): "no column 'text' of strings; its columns are body .string., text .int64.",
    }
    for name, remedy in cases.items():
        with pytest.raises(ValueError, match=remedy) as caught:
            joined(resolve_text(name, "finetune"))
        assert str(caught.value).startswith(f"--finetune.text {name}: ")
        assert "\n" not in str(caught.value)


def test_wikitext_test_rows_are_those_of_the_dataset(shared_dir, tmp_path):
    path = shared_dir / "data" / "wikitext-2-raw" / "wiki.test.raw"
    rows = documents(resolve_text(str(path), "evaluation"))
    assert len(rows) == 4358
    # The same rows, named as the text that papers report on.
    named = resolve_text(f"wikitext2={path}", "evaluation")
    assert list(documents(named)) == list(rows) and joined(named) == "\n\n".join(rows)
    verbatim = shutil.copy(path, tmp_path / "wiki.txt")
    assert joined(resolve_text(str(verbatim), "evaluation")) == path.read_text(encoding="utf-8")


def named_parts(monkeypatch, short, **changes):
    """Changes every part of a named text for one test."""
    named = NAMED[short]
    parts = {name: replace(part, **changes) for name, part in named.parts.items()}
    monkeypatch.setitem(NAMED, short, replace(named, parts=parts))


def test_a_local_copy_of_a_named_text_is_read_by_its_rule(tmp_path, monkeypatch):
    table = tmp_path / "any name.parquet"
    rows = ["no it was n't", "<unk> monday"]
    datasets.Dataset.from_dict({"sentence": rows}).to_parquet(table)
    named_parts(monkeypatch, "ptb", rows_sha256=rows_hash(rows))
    text = resolve_text(f"ptb={table}", "evaluation")
    assert (text.label, text.name) == ("ptb", f"ptb={table}")
    assert list(documents(text)) == rows and joined(text) == "no it was n't <unk> monday"
    content, rule = text.identity.split(" ", 1)
    assert content == f"sha256:{file_hash(table)}" and str(tmp_path) not in text.identity
    # What the hub gives differs in nothing but where the content is from.
    monkeypatch.setattr("core.texts.sources.hub_commit", lambda *_: "a" * 40)
    from_hub = resolve_text("ptb", "evaluation")
    assert from_hub.identity.split(" ", 1)[1] == rule and from_hub.identity != text.identity
    assert same_text(text, from_hub)
    assert not same_text(text, resolve_text("ptb", "calibration"))
    assert resolve_text(f"ptb:train={table}", "evaluation").label == "ptb:train"


def test_a_local_copy_of_c4_has_documents_and_of_wikitext_raw_rows(tmp_path):
    shard = tmp_path / "c4-validation.json.gz"
    lines = [json.dumps({"text": f"document {n}", "url": "u"}) for n in range(1200)]
    shard.write_bytes(gzip.compress("\n".join(lines).encode()))
    text = resolve_text(f"c4={shard}", "evaluation")
    assert len(documents(text)) == 1200
    assert joined(text) == " ".join(f"document {n}" for n in range(1100))
    raw = write(tmp_path / "wiki.test.raw", " \n = A = \n \n b \n")
    assert joined(resolve_text(f"wikitext2={raw}", "evaluation")) == "\n\n = A = \n\n\n\n\n b \n"
    assert resolve_text(f"wikitext2={raw}", "evaluation").label == "wikitext2"


def test_what_is_no_copy_of_a_named_text_is_refused_in_one_line(tmp_path):
    table = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"text": ["a"], "sentence": ["b"]}).to_parquet(table)
    plain = write(tmp_path / "a.txt", "words")
    cases = {
        f"ptb={table}": "these are not the rows that papers read; give a copy of the original",
        f"ptb={plain}": "give a copy of the hub's file, which ends in .parquet, .gz, .json, .jsonl",
        f"ptb={tmp_path / 'nowhere.parquet'}": "no such file",
        "wikitext2=": "no such file",
        f"ptb:tset={table}": "did you mean 'ptb:test'",
        f"embedded={table}": "no such file",
        f"ptb={write(tmp_path / 'a.raw', 'x')}": "which ends in .parquet, .gz, .json, .jsonl",
    }
    for name, remedy in cases.items():
        with pytest.raises(ValueError, match=re.escape(remedy)) as caught:
            joined(resolve_text(name, "evaluation"))
        assert str(caught.value).startswith("--eval.texts ") and "\n" not in str(caught.value)


def test_a_path_with_an_equals_sign_is_a_path(tmp_path):
    (tmp_path / "seed=1").mkdir()
    path = write(tmp_path / "seed=1" / "a.txt", "words")
    text = resolve_text(path, "evaluation")
    assert joined(text) == "words" and text.label == path


def test_rows_are_hashed_with_their_ends():
    assert rows_hash(["a", "é"]) == hashlib.sha256("a\né\n".encode()).hexdigest()
    assert rows_hash(["a b"]) != rows_hash(["a", "b"])
