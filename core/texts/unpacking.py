"""Bytes of text files: unpacked by their first bytes, whatever the suffix, and decoded.

UTF-8 needs no mark; UTF-16 and UTF-32 are read if a byte order mark says so. Nothing is guessed.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from core.checks import BadInputError, require
from core.hub.identity import file_hash, first_line

HEAD = 2**20
"""Bytes at the start of a file that tell its form."""
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # Before UTF-16, whose mark is the first half of this one.
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def _zstd(path: Path) -> IO[bytes]:
    """Open a zstd file; Arrow is the one dependency that can."""
    import pyarrow

    return cast("IO[bytes]", pyarrow.input_stream(str(path), compression="zstd"))


def _bytes(path: Path) -> IO[bytes]:
    """Open a file as it is."""
    return open(path, "rb")


PACKINGS: dict[bytes, Callable[[Any], IO[bytes]]] = {
    b"\x1f\x8b": cast("Callable[[Any], IO[bytes]]", gzip.open),
    b"BZh": cast("Callable[[Any], IO[bytes]]", bz2.open),
    b"\xfd7zXZ\0": cast("Callable[[Any], IO[bytes]]", lzma.open),
    b"\x28\xb5\x2f\xfd": _zstd,
}
"""Openers of compressed files by their first bytes."""


def opener(path: Path) -> Callable[[Any], IO[bytes]]:
    """Return the function that opens a file and unpacks it."""
    with open(path, "rb") as file:
        start = file.read(8)
    return next((found for magic, found in PACKINGS.items() if start.startswith(magic)), _bytes)


def is_packed(path: Path) -> bool:
    """Return True if a file is compressed."""
    return opener(path) is not _bytes


@contextmanager
def unpacked(flag: str, name: str, path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, unpacked; refuse one whose packing is damaged."""
    try:
        with opener(path)(path) as file:
            yield file
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        remedy = f"cannot be read ({first_line(error)}); give the file whole"
        raise BadInputError(f"--{flag} {name}: {remedy}") from error


def content_hash(flag: str, name: str, path: Path) -> str:
    """Return the SHA-256 of a file's bytes, those of a packed file unpacked."""
    if not is_packed(path):
        return file_hash(path)
    with unpacked(flag, name, path) as file:
        digest = hashlib.sha256()
        while block := file.read(HEAD):
            digest.update(block)
    return digest.hexdigest()


def encoding_of(head: bytes) -> str:
    """Return the encoding that the first bytes of a text tell."""
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), "utf-8")


def read_string(flag: str, name: str, path: Path) -> str:
    """Return a text file as a string; line ends become single newlines."""
    with unpacked(flag, name, path) as file:
        data = file.read()
    encoding = encoding_of(data)
    try:
        decoded = data.decode(encoding)
    except UnicodeDecodeError as error:
        kind = encoding.removesuffix("-sig").upper()
        remedy = f"not {kind} text (byte {error.start}: {data[error.start]:#04x}); give text, or "
        remedy += f"convert it; for Latin-1: iconv -f latin1 -t utf-8 {path.name} > NEW"
        raise BadInputError(f"--{flag} {name}: {remedy}") from error
    remedy = "holds zero bytes: no text, or UTF-16 without a byte order mark; convert it to UTF-8"
    require("\0" not in decoded, flag, name, remedy)
    require(bool(decoded.strip()), flag, name, "holds only white space; give one with text")
    return decoded.replace("\r\n", "\n")
