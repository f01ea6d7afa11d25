"""Forms of text files: what a file holds by its content, and by its suffix where content is mute.

- Parquet and Arrow have their own first bytes; archives, PDF and pointers of git-lfs are refused.
- JSON begins with an object, or with a list of objects or strings.
- A table has a first line of names alone, and as many separators in its second line.
- Markup begins with a tag or a declaration, or has a closing tag in every 500 characters. It is
  refused: its tags would be read as words.
- Everything else is prose, or rows of WikiText if the suffix is `.raw`. A suffix of a table or of
  JSON must be true, or the file is refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from core.checks import require
from core.hub.identity import LFS_POINTER
from core.texts.named_texts import Form
from core.texts.unpacking import HEAD, encoding_of, is_packed, unpacked

SUFFIXES: dict[str, Form] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **dict.fromkeys((".csv", ".tsv", ".tab"), "csv"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), "arrow"),
    ".raw": "raw",
}
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zstd")
TABLES: dict[bytes, Form] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
REFUSED = {
    b"PK\x03\x04": "is a zip archive (or .docx, .epub, .xlsx); extract its text first",
    b"7z\xbc\xaf": "is a 7z archive; extract its text first",
    b"Rar!": "is a RAR archive; extract its text first",
    b"%PDF": "is a PDF; extract its text first",
    b"%!PS": "is PostScript; extract its text first",
    b"{\\rtf": "is RTF markup, not prose; extract its text first",
    b"FEA1": "is Feather of version 1; write it again as Parquet",
    LFS_POINTER: "is a pointer of git-lfs, not the file; run git lfs pull",
}
"""First bytes of files that are never read, and the remedy."""
JSON_START = re.compile(r'\s*(\{\s*"[^"\n]*"\s*:|\[\s*\{\s*"|\[\s*"([^"\\\n]|\\.)*"\s*[,\]])')
NAME = re.compile(r"([A-Za-z_]([\w.-]{0,62}\w)?)?")
TAG = re.compile(r"\s*<(!--|!doctype\b|\?xml\b|html\b|([a-z][\w:.-]*)(\s[^<>]*)?/?>)", re.I)
CLOSING = re.compile(r"</[A-Za-z][\w:.-]*\s*>")
TEX = re.compile(r"\s*(%.*\n\s*)*\\documentclass\b")
CLOSING_CHARS = 500


@dataclass(frozen=True)
class Found:
    """The form of a file and its encoding."""

    form: Form
    encoding: str


def form_of(flag: str, name: str, path: Path) -> Found:
    """Return the form of a local file.

    Raises:
        BadInputError: content that is not read as text, or a suffix that it contradicts.
    """
    with unpacked(flag, name, path) as file:
        head = file.read(HEAD)
    suffix = suffix_of(path)
    claimed = SUFFIXES.get(suffix, "plain")
    for magic, remedy in REFUSED.items():
        require(not head.startswith(magic), flag, name, remedy)
    require(head[257:262] != b"ustar", flag, name, "is a tar archive; extract its text first")
    encoding = encoding_of(head)
    for magic, form in TABLES.items():
        if head.startswith(magic):
            require(not is_packed(path), flag, name, f"is {form} within another packing; unpack it")
            return Found(form, encoding)
    is_table = claimed in ("parquet", "arrow")
    remedy = f"cannot be read: its suffix is {suffix}, its content is not; rename it"
    require(not is_table, flag, name, remedy)
    text = head.decode(encoding, errors="ignore")
    return Found(text_form(flag, name, text, claimed), encoding)


def suffix_of(path: Path) -> str:
    """Return the suffix in lower case, without that of a packing: `.jsonl` of `a.JSONL.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def text_form(flag: str, name: str, text: str, claimed: Form) -> Form:
    """Return the form of a text by its first characters, `claimed` where they do not tell.

    Args:
        flag: the flag that names the text.
        name: the text's name.
        text: the first characters.
        claimed: the form by the suffix.
    """
    if claimed == "jsonl" or is_json(text):
        return "jsonl"
    kind = markup(text)
    remedy = (
        f"is {kind}, not prose; extract its text, or give it as "
        '{"text": "..."} in a .jsonl file to read it as it is'
    )
    require(kind is None, flag, name, remedy)
    return "csv" if claimed == "csv" or is_table(text) else claimed


def is_json(text: str) -> bool:
    """Return True if a text begins as JSON with rows of text does."""
    first = text.lstrip().partition("\n")[0]
    if not first.startswith(("{", "[")):
        return False
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return JSON_START.match(text) is not None
    return isinstance(value[0] if isinstance(value, list) and value else value, dict | str)


def markup(text: str) -> str | None:
    """Return the kind of markup that a text is; None for prose."""
    if TEX.match(text):
        return "LaTeX markup"
    tag, closings = TAG.match(text), len(CLOSING.findall(text))
    begins = tag is not None and (tag[2] is None or closings > 0)
    is_dense = closings >= 3 and closings * CLOSING_CHARS > len(text)
    return "HTML or XML markup" if begins or is_dense else None


def separator(header: str) -> str:
    """Return the character that separates the names in the first line of a table."""
    return max(",\t;|", key=header.count)


def is_table(text: str) -> bool:
    """Return True if the first line is names alone and the second has as many separators."""
    first, _, rest = text.partition("\n")
    second, mark = rest.partition("\n")[0], separator(first)
    # Prose has a space behind its commas.
    names = [field.strip('"') for field in first.removesuffix("\r").split(mark)]
    is_header = len(names) > 1 and any(names) and all(map(NAME.fullmatch, names))
    return is_header and second.count(mark) >= first.count(mark)
