"""Local files of every kind are read by their content, or refused in one line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from core.checks import BadInputError
from core.texts.content import documents, joined
from core.texts.sources import resolve_text, same_text

LINES = '{"text": "a b"}\n{"text": "c"}\n'
ROWS = ["a b", "c"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Tests work in a folder of their own, also tables that `datasets` prepares."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gz(data: bytes) -> bytes:
    """Packed data without the time, because names of tests hold it and have to be the same."""
    return gzip.compress(data, mtime=0)


def rows_of(folder, name: str, content: str | bytes, column: str = "") -> list[str]:
    """Write a file and return its documents."""
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return list(documents(resolve_text(name + column, "evaluation")))


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def parquet(**columns) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def arrow_file() -> bytes:
    sink = io.BytesIO()
    pa.feather.write_feather(pa.table({"text": ROWS}), sink)
    return sink.getvalue()


def arrow_stream() -> bytes:
    sink, table = io.BytesIO(), pa.table({"text": ROWS})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


READ = [
    *((name, LINES) for name in ("a.jsonl", "a.JSONL", "a.ndjson", "a.json", "a.txt", "a")),
    ("list.json", json.dumps([{"text": row} for row in ROWS])),
    ("pretty.json", json.dumps([{"text": row} for row in ROWS], indent=2)),
    ("pretty.txt", json.dumps([{"text": row} for row in ROWS], indent=2)),
    ("strings.json", json.dumps(ROWS)),
    ("strings.jsonl", '"a b"\n"c"\n'),
    ("null_strings.json", json.dumps(["a b", None, "c"])),
    ("null_column.json", json.dumps({"text": ["a b", None, "c"]})),
    ("object.json", json.dumps({"data": [{"text": row} for row in ROWS], "version": 1})),
    ("pretty_object.json", json.dumps({"data": [{"text": row} for row in ROWS]}, indent=1)),
    ("column.json", json.dumps({"text": ROWS, "n": [1, 2]})),
    ("blank.jsonl", '\n{"text": "a b"}\n  \n\n{"text": "c"}\n\n'),
    ("windows.jsonl", LINES.replace("\n", "\r\n")),
    ("null.jsonl", '{"text": "a b"}\n{"text": null}\n{"text": "c"}\n'),
    ("marked.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
    ("utf16.jsonl", LINES.encode("utf-16")),
    ("a.csv", 'text,n\n"a b",1\nc,2\n'),
    ("a.CSV", "n,text\n1,a b\n\n2,c\n"),
    ("a.tsv", "n\ttext\n1\ta b\n2\tc\n"),
    ("semicolon.csv", "n;text\n1;a b\n2;c\n"),
    ("one.csv", "text\na b\nc\n"),
    ("index.csv", ",text\n0,a b\n1,c\n"),
    ("marked.csv", b"\xef\xbb\xbftext,n\na b,1\nc,2\n"),
    ("csv.txt", "label,text\n1,a b\n0,c\n"),
    ("packed.jsonl.gz", gz(LINES.encode())),
    ("packed.jsonl.bz2", bz2.compress(LINES.encode())),
    ("packed.jsonl.xz", lzma.compress(LINES.encode())),
    ("packed.jsonl.zst", zstd(LINES.encode())),
    ("two.zst", zstd(b'{"text": "a b"}\n') + zstd(b'{"text": "c"}\n')),
    ("packed.jsonl", gz(LINES.encode())),
    ("packed.csv.gz", gz(b"text,n\na b,1\nc,2\n")),
    ("plain.jsonl.gz", LINES),
    ("a.PARQUET", parquet(text=ROWS)),
    ("parquet.txt", parquet(text=ROWS)),
    ("null.parquet", parquet(text=["a b", None, "c"])),
    ("view.parquet", parquet(text=pa.array(ROWS, pa.string_view()))),
    ("large.parquet", parquet(text=pa.array(ROWS, pa.large_string()))),
    ("choice.parquet", parquet(text=pa.array(ROWS).dictionary_encode())),
    ("a.arrow", arrow_file()),
    ("a.feather", arrow_file()),
    ("stream.arrow", arrow_stream()),
]


@pytest.mark.parametrize(("name", "content"), READ, ids=[name for name, _ in READ])
def test_rows_are_read_by_content(folder, name, content):
    assert rows_of(folder, name, content) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.txt", "prose", "prose"),
        ("a.html", "prose", "prose"),
        ("a.txt.gz", gz(b"prose"), "prose"),
        ("marked.txt", b"\xef\xbb\xbfprose", "prose"),
        ("utf16.txt", "caf\u00e9".encode("utf-16"), "caf\u00e9"),
        ("big_endian.txt", b"\xfe\xff" + "caf\u00e9".encode("utf-16-be"), "caf\u00e9"),
        ("utf32.txt", "caf\u00e9".encode("utf-32"), "caf\u00e9"),
        ("ptb.txt", "<unk> monday it <unk>", "<unk> monday it <unk>"),
        ("maths.txt", "if a < b and c > d then <b> is odd", "if a < b and c > d then <b> is odd"),
        (
            "poem.txt",
            "Text, lies, video.\nSecond, too.",
            "Text, lies, video.\nSecond, too.",
        ),
        ("quote.txt", '["Yes" she said.]', '["Yes" she said.]'),
        ("a#b.txt", "prose", "prose"),
        ("one_line.txt", "word " * 100_000, "word " * 100_000),
    ],
)
def test_prose_is_taken_as_it_is(folder, name, content, text):
    rows_of(folder, name, content)
    assert joined(resolve_text(name, "finetune")) == text


MARKUP = "markup, not prose; extract its text"
REFUSED = [
    ("page.html", "<!DOCTYPE html><html><p>a</p></html>", MARKUP),
    ("page.txt", "<html>\n<body>text", MARKUP),
    ("part.txt", "\n<p>Hello</p>\n<p>World</p>", MARKUP),
    ("feed.xml", '<?xml version="1.0"?><a>t</a>', MARKUP),
    ("wiki.txt", '<doc id="1">\nProse.\n</doc>\n', MARKUP),
    ("late.txt", "Title\n" + "<p>word</p>\n" * 9, MARKUP),
    ("comment.txt", "<!-- hi --> text", MARKUP),
    ("page.raw", "<html><p>a</p></html>", MARKUP),
    ("page.csv", "<html><p>a,b</p></html>", MARKUP),
    ("page.html.gz", gz(b"<html><p>a</p></html>"), MARKUP),
    ("page.xml", "<?xml version='1.0'?><a>t</a>".encode("utf-16"), MARKUP),
    ("page.json", "<!doctype html><html></html>", "line 1 is not JSON"),
    ("paper.tex", "% mine\n\\documentclass{article}\nHi", "LaTeX markup, not prose"),
    ("a.rtf", "{\\rtf1 hi}", "RTF markup, not prose"),
    ("a.pdf", b"%PDF-1.4", "is a PDF; extract its text"),
    ("a.docx", b"PK\x03\x04", "is a zip archive"),
    ("a.tar.gz", gz(b"x" * 257 + b"ustar"), "is a tar archive"),
    ("lfs.txt", "version https://git-lfs.github.com/spec/v1\n", "pointer of git-lfs"),
    ("lfs.parquet", "version https://git-lfs.github.com/spec/v1\n", "pointer of git-lfs"),
    ("latin.txt", b"caf\xe9", "not UTF-8 text (byte 3: 0xe9)"),
    ("latin.jsonl", b'{"text": "caf\xe9"}', "iconv -f latin1 -t utf-8 latin.jsonl"),
    ("surrogate.txt", b"a \xed\xa0\x80", "not UTF-8 text (byte 2: 0xed)"),
    ("odd.txt", "ab".encode("utf-16") + b"c", "not UTF-16 text"),
    ("unmarked.txt", "prose".encode("utf-16-le"), "holds zero bytes"),
    ("binary.bin", bytes(range(256)), "not UTF-8 text (byte 128: 0x80)"),
    ("white.txt", " \n\n", "holds only white space"),
    ("mark.txt", b"\xef\xbb\xbf", "holds only white space"),
    ("empty.txt", "", "the file is empty"),
    ("empty.gz", gz(b""), "holds only white space"),
    ("cut.jsonl.gz", gz(LINES.encode())[:-6], "cannot be read"),
    ("cut.zst", zstd(LINES.encode() * 99)[:-6], "cannot be read"),
    ("damaged.xz", lzma.compress(LINES.encode())[:-10] + b"0123456789", "cannot be read"),
    ("damaged.gz", b"\x1f\x8bnonsense", "cannot be read"),
    ("twice.parquet.gz", gz(parquet(text=ROWS)), "within another packing"),
    ("prose.jsonl", "just prose", "line 1 is not JSON"),
    ("cut.jsonl", '{"text": "a"}\n{"text": "b"', "line 2 is not JSON"),
    ("commas.jsonl", '{"text": "a"},\n{"text": "b"},\n', "line 1 is not JSON"),
    ("cut.json", '[{"text": "a"}, ', "line 1 is not JSON"),
    ("deep.json", "[" * 100_000, "cannot be read as JSON"),
    ("numbers.json", "[1, 2]", "row 1 is not an object"),
    ("none.json", "[]", "holds no rows with text"),
    ("nulls.jsonl", '{"text": null}\n{"text": null}', "holds no rows with text"),
    ("book.ipynb", '{"cells": [{"source": ["a"]}]}', "columns are source (list)"),
    ("half.jsonl", '{"text": "a"}\n{"text": "b \\ud83d c"}', "line 2 holds half of a character"),
    ("number.jsonl", '{"text": "a"}\n{"text": 3}', "line 2 has 'text' of type number"),
    ("other.jsonl", '{"text": "a"}\n{"body": "b"}', "line 2 has no column 'text' of strings"),
    ("body.json", '{"body": "a", "tags": ["x"]}', "are body (string), tags (list); name one"),
    ("body.csv", "id,body\n1,a\n", "as body.csv#COLUMN"),
    ("body.txt", "id\tbody\n1\ta b\n", "columns are id (string), body (string); name one"),
    ("same.csv", "text,text\na,b\n", "has two columns 'text'"),
    ("more.csv", "text,n\na, b,1\n", "ends in line 2 has 3 fields, the first line 2"),
    ("fewer.csv", "text,n\na\n", "ends in line 2 has 1 fields"),
    ("open.csv", 'text,n\n"a b,1\n', "is no row of a table"),
    ("head.csv", "text,n\n", "holds no rows with text"),
    ("prose.csv", "Just prose.\nMore, of it.\n", "has no column 'text'"),
    ("lines.parquet", LINES, "its suffix is .parquet, its content is not"),
    ("lines.arrow", LINES, "its suffix is .arrow, its content is not"),
    ("cut.parquet", parquet(text=ROWS)[:-9], "cannot be read: Parquet magic bytes"),
    ("body.parquet", parquet(body=["a"], n=[1]), "are body (string), n (int64); name one"),
    ("bytes.parquet", parquet(text=[b"a"]), "columns are text (binary)"),
    ("lists.parquet", parquet(text=[["a"]]), "columns are text (list)"),
    ("nulls.parquet", parquet(text=pa.nulls(2)), "columns are text (null)"),
    ("none.parquet", parquet(text=pa.array([], pa.string())), "holds no rows"),
    ("all_null.parquet", parquet(text=pa.array([None], pa.string())), "holds no rows"),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED, ids=[r[0] for r in REFUSED])
def test_other_files_are_refused_in_one_silent_line(folder, capfd, name, content, message):
    with pytest.raises(BadInputError) as caught:
        rows_of(folder, name, content)
    told = str(caught.value)
    assert told.startswith(f"--eval.texts {name}: ") and message in told and "\n" not in told
    assert "".join(capfd.readouterr()) == ""


def test_two_columns_of_one_name_are_told_with_the_cause(folder):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["text", "text"]), sink)
    with pytest.raises(BadInputError, match="cannot be read: Multiple matches for .*text"):
        rows_of(folder, "two.parquet", sink.getvalue())


def test_bytes_of_a_table_that_are_no_text_are_refused(folder):
    good = pa.array([b"a", b"\xed\xa0\x80"])
    bad = pa.Array.from_buffers(pa.string(), 2, good.buffers())
    with pytest.raises(BadInputError, match="bytes that are not UTF-8"):
        rows_of(folder, "bad.parquet", parquet(text=bad))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"body": "a b"}\n{"body": "c"}\n'),
        ("a.json", '{"body": ["a b", "c"]}'),
        ("a.csv", "id,body\n1,a b\n2,c\n"),
        ("a.parquet", parquet(body=ROWS)),
    ],
)
def test_a_column_is_named_behind_the_file(folder, name, content):
    assert rows_of(folder, name, content, "#body") == ROWS
    with pytest.raises(BadInputError, match="has no column 'tale' of strings"):
        rows_of(folder, name, content, "#tale")


def test_prose_has_no_columns(folder):
    with pytest.raises(BadInputError, match="is no table; leave out its #COLUMN"):
        rows_of(folder, "a.txt", "prose", "#body")


def test_fields_of_separated_values_are_whole(folder):
    long = "word " * 200_000
    rows = ["a\nb", 'say "x", y', "NA", "", "null", long]
    for mark, name in ((",", "a.csv"), ("\t", "a.tsv")):
        sink = io.StringIO()
        csv.writer(sink, delimiter=mark).writerows([["text", "n"], *([row, 1] for row in rows)])
        assert rows_of(folder, name, sink.getvalue()) == rows
    assert csv.field_size_limit() == 131_072, "the process keeps its limit"


def test_characters_of_two_halves_are_whole(folder):
    assert rows_of(folder, "a.jsonl", '{"text": "\\ud83d\\ude00"}') == ["\U0001f600"]


def test_rows_that_are_left_out_are_counted(folder, caplog):
    rows_of(folder, "nulls.jsonl", '{"text": null}\n{"text": "a"}\n{"text": null}\n')
    assert caplog.messages == ["--eval.texts nulls.jsonl: 2 of 3 rows are null and left out"]


def test_a_packed_copy_is_the_same_text(folder):
    for name, data in (("a.txt", b"prose"), ("b.gz", gz(b"prose")), ("c.txt", b"else")):
        (folder / name).write_bytes(data)
    one, packed, other = (resolve_text(name, "finetune") for name in ("a.txt", "b.gz", "c.txt"))
    assert same_text(one, packed) and not same_text(one, other)


def test_identities_of_files_that_were_read_before_are_kept(folder):
    for name, data in (("a.txt", b"x"), ("a.jsonl", LINES.encode()), ("m.txt", b"\xef\xbb\xbfx")):
        (folder / name).write_bytes(data)
    plain, lines, marked = (resolve_text(n, "finetune") for n in ("a.txt", "a.jsonl", "m.txt"))
    assert plain.identity.split(" ", 1)[1] == r"plain rows=None joiner='\n\n'"
    assert lines.identity.split(" ", 1)[1] == r"jsonl:text rows=None joiner='\n\n'"
    assert " plain utf-8-sig rows=" in marked.identity, "its mark was read as text before"


def test_a_named_text_is_copied_with_any_suffix(folder):
    (folder / "shard.JSONL").write_text(LINES)
    (folder / "page.json").write_text("id,text\n1,a\n")
    assert joined(resolve_text("c4=shard.JSONL", "evaluation")) == "a b c"
    with pytest.raises(BadInputError, match="cannot be read"):
        joined(resolve_text("c4=page.json", "evaluation"))


@pytest.mark.parametrize("name", ["c4", "wikitext2"])
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.parquet", parquet(text=["a b", None, "c"])),
        ("a.jsonl", '{"text": "a b"}\n{"text": null}\n{"text": "c"}\n'),
    ],
)
def test_a_copy_of_a_named_text_may_have_nulls(folder, caplog, name, file, content):
    given = f"{name}={file}"
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    text = resolve_text(given, "evaluation")
    assert joined(text) == text.rule.joiner.join(ROWS)
    assert caplog.messages == [f"--eval.texts {given}: 1 of 3 rows are null and left out"]


@pytest.mark.parametrize("name", ["c4", "wikitext2", "ptb"])
def test_a_copy_of_a_named_text_is_utf8(folder, name):
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"a \xed\xa0\x80"]).buffers())
    (folder / "a.parquet").write_bytes(parquet(text=bad, sentence=bad))
    (folder / "a.jsonl").write_bytes(LINES.encode("utf-16"))
    for file, message in (("a.parquet", "bytes that are not UTF-8"), ("a.jsonl", "is not UTF-8")):
        with pytest.raises(BadInputError, match=message):
            joined(resolve_text(f"{name}={file}", "evaluation"))
