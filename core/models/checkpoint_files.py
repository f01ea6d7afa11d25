"""Files of a checkpoint, read without a library: JSON objects and headers of safetensors.

A file that is not what its name says is refused with its name and the reason. Libraries say less,
and each in another way.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.checks import BadInputError
from core.hub.identity import LFS_POINTER

MAX_HEADER = 100_000_000
"""Bytes of the longest header that safetensors reads."""
WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2}
WIDTHS |= {"I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1}
"""Bytes of a value by its dtype in a header; a dtype that is not here is not checked."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the header of its file describes it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def json_object(model: str, file: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model.

    Raises:
        BadInputError: it is a folder, empty, a git-lfs pointer, not UTF-8, no JSON or no object.
    """

    def refuse(reason: str) -> BadInputError:
        return BadInputError(f"--models {model}: {file.name} {reason}")

    if file.is_dir():
        raise refuse("is a folder; give the directory that save_pretrained wrote")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror}); copy the model again") from error
    if reason := no_content(data):
        raise refuse(reason)
    try:
        found = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise refuse("is not UTF-8; save it as UTF-8, or copy the model again") from error
    except (ValueError, RecursionError) as error:
        raise refuse(f"is no JSON ({error}); copy the model again") from error
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise refuse(f"holds a {kind}, not an object; copy the model again")
    return found


def no_content(data: bytes) -> str | None:
    """Return the reason if a file has no content: it is empty or a git-lfs pointer."""
    if not data.strip():
        return "is empty; copy the model again"
    if data.startswith(LFS_POINTER):
        return "is a git-lfs pointer, not the file; run `git lfs pull` in its folder"
    return None


def read_header(model: str, file: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by name; read the header alone.

    Raises:
        BadInputError: the file is no safetensors file, or its length is not what the header says.
    """

    def refuse(reason: str) -> BadInputError:
        return BadInputError(f"--models {model}: {file.name} {reason}")

    again = "copy it again"
    try:
        size = file.stat().st_size
        with open(file, "rb") as opened:
            begin = opened.read(max(8, len(LFS_POINTER)))
            length = int.from_bytes(begin[:8], "little")
            opened.seek(8)
            text = opened.read(length) if 8 + length <= size and length <= MAX_HEADER else None
    except OSError as error:
        raise refuse(f"cannot be read ({error.strerror}); {again}") from error
    if reason := no_content(begin):
        raise refuse(reason)
    if text is None:
        is_cut = length <= MAX_HEADER or size < 8
        told = f"is cut after {size} bytes" if is_cut else "is no safetensors file"
        raise refuse(f"{told}; {again}")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise refuse(f"is no safetensors file (its header is no JSON object); {again}") from error
    end = 0
    for name, entry in header.items():
        stop = end_of(entry)
        if stop is None:
            raise refuse(f"has a broken header: the entry of {name} is {entry}; {again}")
        end = max(end, stop)
    beyond = size - (8 + length + end)
    if beyond:
        told = f"is {-beyond:,} bytes shorter" if beyond < 0 else f"is {beyond:,} bytes longer"
        raise refuse(f"{told} than its header says; {again}")
    return {n: StoredTensor(file, e["dtype"], tuple(e["shape"])) for n, e in header.items()}


def end_of(entry: Any) -> int | None:
    """Return where in the data a tensor of a header ends; None if its entry is broken."""
    try:
        start, end = entry["data_offsets"]
        count = math.prod(entry["shape"])
        width = WIDTHS.get(entry["dtype"])
        fits = 0 <= start <= end and min(entry["shape"], default=0) >= 0
    except (TypeError, KeyError, ValueError):
        return None
    return end if fits and (width is None or end - start == count * width) else None
