"""Text sources: which text a name and a role stand for, its rows, and how the rows are joined.

A source is the embedded text, a hub dataset by short name (or a local copy of its file), or a local
file. `resolve_text` reads no more than it must to say which text it is; `documents` and `joined`
give the content, and `data.py` makes token windows of it.
"""

from __future__ import annotations

import io
import json
import lzma
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from huggingface_hub import hf_hub_download
from huggingface_hub import utils as hub_utils

from core.checks import BadInputError, require, require_known
from core.hub.downloads import Download, NotFetchedError
from core.hub.identity import MovedError, file_hash, first_line, hub_commit
from core.texts.named_texts import EMBEDDED_DIR, FLAGS, NAMED, Form, Part, Role, TextName, rows_hash

COPIES: dict[str, Form] = {".parquet": "parquet", ".gz": "json", ".json": "json", ".jsonl": "json"}
"""How a local copy of a named text's file is read, by its suffix."""


@dataclass(frozen=True)
class Text:
    """One text in one role; holds no content."""

    name: str
    """As the user gave it."""
    role: Role
    part: str
    """Which part of the source, in words."""
    content: str
    """Identity of the stored bytes: hub commit and file, or `sha256:`."""
    form: Form
    rule: Part
    path: str | None
    """The local file; None for a file on the hub."""
    repo: str | None = None
    commit: str | None = None
    column: str = "text"
    source: str | None = None
    """`SHORT:PART` of a named text."""

    @property
    def label(self) -> str:
        """What results call it."""
        return str(TextName.parse(self.name))

    @property
    def identity(self) -> str:
        """What determines the text that `documents` and `joined` give, for hashing."""
        how = self.form if self.form == "plain" else f"{self.form}:{self.column}"
        return f"{self.content} {how} rows={self.rule.stream_rows} joiner={self.rule.joiner!r}"

    @property
    def flag(self) -> str:
        """The command line flag that named it, for messages."""
        return FLAGS[self.role]


def resolve_text(name: str, role: Role, default_part: str | None = None) -> Text:
    """Finds a text by short name (`embedded`, `c4:validation`, ...) or as a local file.

    Args:
        name: a key of `NAMED`, alone (the role picks the part) or with `:part`, and with `=FILE`
            behind it where a local copy of the part's file is to be read; else a path.
        role: what the text is for.
        default_part: the part of a named text where the name gives none, instead of the role's.

    Raises:
        ValueError: in one line naming the flag, for an unknown name, an empty or absent file, or a
            hub dataset that is neither cached nor reachable (then `NotFetchedError`).
    """
    given = TextName.parse(name)
    if given.short is None:
        return _local_text(name, role)
    named = NAMED[given.short]
    if given.part is not None:
        known = [f"{given.short}:{part}" for part in named.parts]
        require_known(FLAGS[role], str(given), known)
    part = given.part or default_part or named.roles[role]
    if given.file is not None:
        return _local_copy(name, role, given, part)
    if named.repos:
        return _hub_text(name, role, given.short, part)
    rule = named.parts[part]
    path = EMBEDDED_DIR / rule.file
    content = f"sha256:{file_hash(path)}"
    source = f"{given.short}:{part}"
    described = f"embedded {part}"
    return Text(name, role, described, content, named.form, rule, str(path), source=source)


def _existing(path: Path, role: Role, name: str) -> Path:
    """Refuses a file that is not there or empty."""
    flag = FLAGS[role]
    require(path.is_file(), flag, name, "no such file; give a text file or one of the short names")
    require(path.stat().st_size > 0, flag, name, "the file is empty; give one with text")
    return path


def _local_copy(name: str, role: Role, given: TextName, part: str) -> Text:
    """A part of a named text, read by its rule from a file at hand."""
    assert given.short is not None and given.file is not None
    path = _existing(Path(given.file).expanduser(), role, name)
    # A `.raw` file holds WikiText's rows, see `documents`.
    raw: dict[str, Form] = {".raw": "raw"} if given.short == "wikitext2" else {}
    forms = COPIES | raw
    remedy = f"give a copy of the hub's file, which ends in {', '.join(forms)}"
    require(path.suffix in forms, FLAGS[role], name, remedy)
    named = NAMED[given.short]
    rule = named.parts[part]
    content = f"sha256:{file_hash(path)}"
    return Text(
        name,
        role,
        f"copy of {named.repos[0]} {rule.file}",
        content,
        forms[path.suffix],
        rule,
        str(path),
        column=named.column,
        source=f"{given.short}:{part}",
    )


def _local_text(name: str, role: Role) -> Text:
    flag, path = FLAGS[role], Path(name).expanduser()
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        require_known(flag, name, [*NAMED, "or the path of a local file"])
    _existing(path, role, name)
    forms: dict[str, Form] = {".raw": "raw", ".jsonl": "jsonl", ".parquet": "parquet"}
    form = forms.get(path.suffix, "plain")
    content = f"sha256:{file_hash(path)}"
    return Text(name, role, "whole file", content, form, Part(path.name), str(path))


def _hub_text(name: str, role: Role, short: str, part: str) -> Text:
    named, causes, moved = NAMED[short], [], False
    rule = named.parts[part]
    for repo in named.repos:
        try:
            commit = hub_commit(repo, rule.file, named.revision, "dataset")
        except MovedError as error:
            moved = True
            causes.append(first_line(error))
            continue
        except ConnectionError as error:
            causes.append(first_line(error))
            continue
        if commit is not None:
            # One dataset under an old and a new name is one content.
            content = f"{named.repos[0]}@{commit}:{rule.file}"
            where = f"{named.repos[0]} {rule.file}"
            return Text(
                name,
                role,
                where,
                content,
                named.form,
                rule,
                None,
                repo,
                commit,
                named.column,
                f"{short}:{part}",
            )
        moved = True
        causes.append("no such file there")
    flag, repo = FLAGS[role], named.repos[0]
    if moved:
        raise BadInputError(
            f"--{flag} {name}: the hub has moved it ({causes[0]}): {rule.file} of dataset {repo} "
            f"is not at revision {named.revision} any more; give a copy of that file as {name}=FILE"
        )
    wanted = Download(repo, named.revision, (rule.file,), kind="dataset")
    raise NotFetchedError(flag, name, causes[0], [wanted])


def same_text(a: Text, b: Text) -> bool:
    """Whether two texts hold the same content, whatever they are called and used for."""
    return a.content == b.content or (a.source is not None and a.source == b.source)


def documents(text: Text) -> Sequence[str]:
    """The documents of a text: its rows, or the lines of plain text that are not blank.

    Rows of a hub file stay on disk and are read one by one.

    Raises:
        ValueError: in one line naming the flag, for content that cannot be read as text.
    """
    if text.form == "plain":
        return [line for line in _read(text).split("\n") if line.strip()]
    return _rows(text)


def joined(text: Text) -> str:
    """The whole text as one string: plain text as it is, rows joined by the part's joiner."""
    if text.form == "plain":
        return _read(text)
    return text.rule.joiner.join(islice(_rows(text), text.rule.stream_rows))


def _rows(text: Text) -> Sequence[str]:
    if text.form == "raw":
        # As the WikiText dataset has its rows: newline kept, and a blank line is an empty row.
        return [line if line.strip() else "" for line in io.StringIO(_read(text))]
    if text.form == "jsonl":
        return [_json_row(text, n, line) for n, line in enumerate(_read(text).split("\n")) if line]
    return _table(text)


def _json_row(text: Text, index: int, line: str) -> str:
    try:
        row = json.loads(line)[text.column]
    except (ValueError, KeyError, TypeError):
        row = None
    remedy = f'line {index + 1} is not an object like {{"{text.column}": "..."}}'
    require(isinstance(row, str), text.flag, text.name, remedy)
    return cast(str, row)


def _read(text: Text) -> str:
    assert text.path is not None
    data = Path(text.path).read_bytes()
    try:
        decoded = (lzma.decompress(data) if text.path.endswith(".xz") else data).decode("utf-8")
    except UnicodeDecodeError as error:
        remedy = f"not UTF-8 text (byte {error.start}); convert it"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}") from error
    return decoded.replace("\r\n", "\n")


def _table(text: Text) -> Sequence[str]:
    """One column of a parquet or JSON file, memory-mapped by `datasets`."""
    # Imported here: it takes a second, and most sweeps read no table.
    from datasets import load_dataset

    try:
        with _no_bars():
            path = text.path or hf_hub_download(
                cast(str, text.repo), text.rule.file, repo_type="dataset", revision=text.commit
            )
            table = load_dataset(text.form, data_files=path, split="train")
    except Exception as error:
        # Readers of each format raise errors of their own.
        remedy = f"cannot be read: {first_line(error)}"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}") from error
    kinds = {name: getattr(kind, "dtype", None) for name, kind in (table.features or {}).items()}
    remedy = f"has no column {text.column!r} of strings; its columns are {', '.join(kinds)}"
    is_text = kinds.get(text.column) in ("string", "large_string")
    require(is_text, text.flag, text.name, remedy)
    rows, wanted = cast(Sequence[str], table[text.column]), text.rule.rows_sha256
    if wanted is not None and rows_hash(rows) != wanted:
        changed = "these are not the rows" if text.path else "the hub has changed it: not the rows"
        remedy = f"{changed} that papers read; give a copy of the original as {text.label}=FILE"
        raise BadInputError(f"--{text.flag} {text.name}: {remedy}")
    return rows


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keeps the progress bars of downloads and of `datasets` off the terminal."""
    import datasets

    shown = [
        enable
        for enable, disabled in (
            (hub_utils.enable_progress_bars, hub_utils.are_progress_bars_disabled()),
            (datasets.enable_progress_bars, datasets.are_progress_bars_disabled()),
        )
        if not disabled
    ]
    hub_utils.disable_progress_bars()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for enable in shown:
            enable()
