"""Text sources: the text that a name and a role stand for.

A source is the embedded text, a hub dataset by short name (or a local copy of its file), or a local
file. `resolve_text` reads no more than it needs to tell which text it is. `content.py` reads the
rows, and `windows.py` makes token windows of them.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from core.checks import BadInputError, require, require_known
from core.hub.downloads import Download, NotFetchedError
from core.hub.identity import MovedError, file_hash, first_line, hub_commit
from core.paths import local_path, look_up
from core.texts.forms import form_of
from core.texts.named_texts import EMBEDDED_DIR, FLAGS, NAMED, Form, Part, Role, TextName
from core.texts.unpacking import content_hash

COPIES: dict[Form, Form] = {"parquet": "parquet", "jsonl": "json"}
"""Form in which a local copy of a named text's file is read, by the form that is found."""


@dataclass(frozen=True)
class Text:
    """One text in one role, without its content."""

    name: str
    """The name that the user gave."""
    role: Role
    part: str
    """The part of the source, in words."""
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
    encoding: str = "utf-8"
    unpacked: str | None = None
    """Hash of the bytes of a local file, those of a packed file unpacked."""

    @property
    def label(self) -> str:
        """Return the name of the text in results."""
        return str(TextName.parse(self.name))

    @property
    def identity(self) -> str:
        """Return all that determines the documents and the joined text, for hashing."""
        how = self.form if self.form == "plain" else f"{self.form}:{self.column}"
        # Files with a byte order mark were read otherwise, or not at all.
        how += "" if self.encoding == "utf-8" else f" {self.encoding}"
        return f"{self.content} {how} rows={self.rule.stream_rows} joiner={self.rule.joiner!r}"

    @property
    def flag(self) -> str:
        """Return the command line flag that named the text, for messages."""
        return FLAGS[self.role]


def resolve_text(name: str, role: Role, default_part: str | None = None) -> Text:
    """Find a text by short name (`embedded`, `c4:validation`, ...) or as a local file.

    Args:
        name: a key of `NAMED` or a path. A key alone lets the role pick the part, and `:PART` names
            it; `=FILE` after either reads a local copy of the part's file.
        role: the use of the text.
        default_part: the part of a named text if the name gives none, instead of the role's.

    Raises:
        BadInputError: in one line naming the flag, for an unknown name, an empty or absent file, or
            a hub dataset that is neither cached nor reachable (then `NotFetchedError`).
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
    return _hub_text(name, role, given.short, part) if named.repos else _embedded(name, role, part)


def same_text(a: Text, b: Text) -> bool:
    """Return True if two texts hold the same content, whatever their names and uses."""
    is_same = a.unpacked == b.unpacked if a.unpacked and b.unpacked else a.content == b.content
    return is_same or (a.source is not None and a.source == b.source)


def _embedded(name: str, role: Role, part: str) -> Text:
    """Return a part of the embedded text."""
    named = NAMED["embedded"]
    rule = named.parts[part]
    path = EMBEDDED_DIR / rule.file
    return Text(
        name,
        role,
        part=f"embedded {part}",
        content=f"sha256:{file_hash(path)}",
        form=named.form,
        rule=rule,
        path=str(path),
        source=f"embedded:{part}",
    )


def _local_copy(name: str, role: Role, given: TextName, part: str) -> Text:
    """Return a part of a named text, read by its rule from a local file."""
    assert given.short is not None and given.file is not None
    path = _existing(given.file, role, name)
    found = form_of(FLAGS[role], name, path)
    # A `.raw` file holds WikiText's rows, see `content.py`.
    raw: dict[Form, Form] = {"raw": "raw"} if given.short == "wikitext2" else {}
    forms = COPIES | raw
    endings = ".parquet, .gz, .json, .jsonl" + (", .raw" if raw else "")
    remedy = f"give a copy of the hub's file, which ends in {endings}"
    require(found.form in forms, FLAGS[role], name, remedy)
    is_utf8 = found.form == "raw" or found.encoding.startswith("utf-8")
    require(is_utf8, FLAGS[role], name, "is not UTF-8; give a copy of the hub's file as it is")
    named = NAMED[given.short]
    rule = named.parts[part]
    return Text(
        name,
        role,
        part=f"copy of {named.repos[0]} {rule.file}",
        content=f"sha256:{file_hash(path)}",
        form=forms[found.form],
        rule=rule,
        path=str(path),
        column=named.column,
        source=f"{given.short}:{part}",
        encoding=found.encoding,
        unpacked=content_hash(FLAGS[role], name, path),
    )


def _local_text(name: str, role: Role) -> Text:
    """Return a whole local file as a text of its own."""
    flag = FLAGS[role]
    if not os.path.exists(name) and re.fullmatch(r"[\w:-]+", name):
        require_known(flag, name, [*NAMED, "or the path of a local file"])
    file, column = split_column(flag, name)
    path = _existing(file, role, name)
    found = form_of(flag, name, path)
    has_columns = found.form not in ("plain", "raw")
    require(has_columns or column is None, flag, name, "is no table; leave out its #COLUMN")
    return Text(
        name,
        role,
        part="whole file",
        content=f"sha256:{file_hash(path)}",
        form=found.form,
        rule=Part(path.name),
        path=str(path),
        column=column or "text",
        encoding=found.encoding,
        unpacked=content_hash(flag, name, path),
    )


def split_column(flag: str, name: str) -> tuple[str, str | None]:
    """Return the file of FILE#COLUMN and the column; `#` in an existing path is a character."""
    file, mark, column = name.rpartition("#")
    if not mark or os.path.exists(local_path(flag, name)):
        return name, None
    return file, column or None


def _existing(file: str, role: Role, name: str) -> Path:
    """Return the path of a file; refuse one that is absent, empty or not to be read."""
    flag, path = FLAGS[role], local_path(FLAGS[role], file)
    found = look_up(flag, name, path)
    remedy = "no such file; give a text file or one of the short names"
    require(found is not None, flag, name, remedy)
    assert found is not None
    require(not stat.S_ISDIR(found.st_mode), flag, name, "is a folder; give a text file")
    require(stat.S_ISREG(found.st_mode), flag, name, "is no regular file; give a text file")
    require(found.st_size > 0, flag, name, "the file is empty; give one with text")
    require(os.access(path, os.R_OK), flag, name, "cannot be read (Permission denied)")
    return Path(path)


def _hub_text(name: str, role: Role, short: str, part: str) -> Text:
    """Return a part of a hub dataset, which may have been renamed."""
    named, causes, moved = NAMED[short], [], False
    rule = named.parts[part]
    for repo in named.repos:
        try:
            commit = hub_commit(repo, rule.file, named.revision, "dataset")
        except ConnectionError as error:
            moved = moved or isinstance(error, MovedError)
            causes.append(first_line(error))
            continue
        if commit is None:
            moved = True
            causes.append("no such file there")
            continue
        return Text(
            name,
            role,
            part=f"{named.repos[0]} {rule.file}",
            # The first name stands for all: a dataset that was renamed has the same content.
            content=f"{named.repos[0]}@{commit}:{rule.file}",
            form=named.form,
            rule=rule,
            path=None,
            repo=repo,
            commit=commit,
            column=named.column,
            source=f"{short}:{part}",
        )
    flag, repo = FLAGS[role], named.repos[0]
    if moved:
        raise BadInputError(
            f"--{flag} {name}: the hub has moved it ({causes[0]}): {rule.file} of dataset {repo} "
            f"is not at revision {named.revision} any more; give a copy of that file as {name}=FILE"
        )
    wanted = Download(repo, named.revision, (rule.file,), kind="dataset")
    raise NotFetchedError(flag, name, causes[0], [wanted])
