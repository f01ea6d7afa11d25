"""The index of a folder: what its many small files hold, in one file.

Below a URI a file takes two requests, each of which takes long. A store has a manifest for each
stage and a file for each row, so a large one would take minutes to read. The index takes one
request.

Nothing depends on it. An entry counts only if the folder's listing shows its file with the time and
the size that it was read with; every other file is read by itself. So what other sweeps write,
replace, remove or damage is seen at once. An index that is lost, damaged or old costs time, and is
made again. Several writers replace it whole, and the last one wins.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from orchestrator.store.files import Files, Stamp, read_object

FOLDER = "index"
YOUNG_NS = 60 * 10**9
"""Age below which a file has no entry. Some stores tell times in whole seconds, those at which a
write began: another version of a file that is so young may have the same time and size."""
FEW = 100
"""Files that are read one by one before the index is worth being written again."""
DIGEST_BYTES = 32

logger = logging.getLogger(__name__)
Entry = tuple[Stamp, dict[str, Any]]
"""The time and size that a file was read with, and the JSON object in it."""


@dataclass
class Index:
    """The index of one folder, and what this process has read beside it."""

    files: Files
    folder: str
    read: dict[str, Entry] = field(default_factory=dict)
    """Entries that the file of the index lacks."""
    listed: Mapping[str, Stamp] = field(default_factory=dict)
    """The last listing."""

    def objects(self, listed: Mapping[str, Stamp]) -> dict[str, dict[str, Any] | None]:
        """Return the JSON objects in files; None for a file that holds something else.

        Args:
            listed: the files by their paths below the folder, as they were listed just now. One
                that is gone by now is left out.
        """
        known = self.read if len(listed) < FEW else {**self.stored(), **self.read}
        found: dict[str, dict[str, Any] | None] = {
            name: known[name][1]
            for name, stamp in listed.items()
            if name in known and known[name][0] == stamp
        }
        others = [name for name in listed if name not in found]
        contents = self.files.for_each(others, lambda name: self.files.try_read(self.folder, name))
        for name, data in zip(others, contents, strict=True):
            if data is not None:
                found[name] = read_object(data)
        self.remember(listed, {name: one for name in others if (one := found.get(name))})
        return found

    def remember(self, listed: Mapping[str, Stamp], read: Mapping[str, dict[str, Any]]) -> None:
        """Keep what was read of files that are not young; files of this machine are quick to read.

        The newest file tells a time that the store's clock has reached, unless somebody gave it a
        time to come: then our clock counts.
        """
        if self.files.is_local:
            return
        newest = max((written for written, _ in listed.values()), default=0)
        old = min(newest, time.time_ns()) - YOUNG_NS
        self.read |= {n: (listed[n], one) for n, one in read.items() if listed[n][0] < old}
        self.listed = {**self.listed, **listed}

    def save(self) -> None:
        """Write the index again if many files were read beside it."""
        if len(self.read) < FEW:
            return
        known = {**self.stored(), **self.read}
        entries = {n: e for n, e in known.items() if self.listed.get(n) == e[0]}
        try:
            self.files.write_bytes(packed(entries), *self.path)
            self.read = {}
        except OSError as error:
            logger.info("%s was not written: %s", "/".join(self.path), error)

    def stored(self) -> dict[str, Entry]:
        """Return the entries in the store; none if there is no index that can be read."""
        if self.files.is_local:
            return {}
        try:
            return unpacked(self.files.try_read(*self.path) or b"")
        except (OSError, ValueError, LookupError) as error:
            logger.info("%s is not used: %s", "/".join(self.path), error)
            return {}

    @property
    def path(self) -> tuple[str, str]:
        """The file of the index, as parts of a path."""
        return FOLDER, f"{self.folder}.arrow"


def packed(entries: Mapping[str, Entry]) -> bytes:
    """Return the file of an index: a SHA-256, then the compressed table that it is of."""
    table = pa.table(
        {
            "name": pa.array(entries, pa.string()),
            "time": pa.array((stamp[0] for stamp, _ in entries.values()), pa.int64()),
            "size": pa.array((stamp[1] for stamp, _ in entries.values()), pa.int64()),
            "content": pa.array((json.dumps(e) for _, e in entries.values()), pa.large_string()),
        }
    )
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    return hashlib.sha256(data).digest() + data


def unpacked(data: bytes) -> dict[str, Entry]:
    """Return the entries that `packed` made these bytes of; none of no bytes.

    Raises:
        ValueError, LookupError: they are something else.
    """
    if not data:
        return {}
    digest, rest = data[:DIGEST_BYTES], data[DIGEST_BYTES:]
    if hashlib.sha256(rest).digest() != digest:
        raise LookupError("it is damaged")
    table = pa.ipc.open_file(rest).read_all()
    columns = (table[name].to_pylist() for name in ("name", "time", "size", "content"))
    return {n: ((written, size), json.loads(text)) for n, written, size, text in zip(*columns)}
