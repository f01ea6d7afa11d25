"""A store on this machine that behaves as one below a URI: each request takes its time.

A request is what an object store charges: a page of 1,000 names, a look at one file, each part of a
read or a write. `measure_store.py` waits for them, tests count them.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from pyarrow import fs

from orchestrator.store.store import Store

PAGE = 1_000
"""Names that one request lists."""
REQUESTS = {"look": 1, "read": 2, "write": 3, "make": 2, "remove": 1}
"""Requests of pyarrow's client of S3; a look at a file that is not there takes one more."""


class SlowFiles(fs.FileSystemHandler):
    """The local files as a remote filesystem."""

    def __init__(self, seconds: float = 0.0) -> None:
        """Count requests; each takes `seconds`."""
        self.local, self.seconds = fs.LocalFileSystem(), seconds
        self.asked = Counter[str]()

    def ask(self, kind: str, requests: int | None = None) -> None:
        """Count the requests of one call, and wait for their answers."""
        count = REQUESTS[kind] if requests is None else requests
        self.asked[kind] += count
        time.sleep(count * self.seconds)

    @property
    def requests(self) -> int:
        """All requests so far."""
        return self.asked.total()

    def get_type_name(self) -> str:
        """Return a name that is not that of local files."""
        return "slow"

    def normalize_path(self, path: str) -> str:
        """Return the path as it is."""
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Look at files."""
        found = self.local.get_file_info(paths)
        for info in found:
            self.ask("look", 1 + (info.type == fs.FileType.NotFound))
        return found

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """List a folder."""
        found = self.local.get_file_info(selector)
        self.ask("list", 1 + len(found) // PAGE)
        return found

    def open_input_stream(self, path: str) -> Any:
        """Open a file to read it."""
        self.ask("read")
        return self.local.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        """Open a file to read it."""
        self.ask("read")
        return self.local.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        """Open a file to write it."""
        self.ask("write")
        return self.local.open_output_stream(path)

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        """Refuse what object stores do not have."""
        raise NotImplementedError

    def create_dir(self, path: str, recursive: bool) -> None:
        """Make a folder."""
        self.ask("make")
        self.local.create_dir(path, recursive=recursive)

    def delete_dir(self, path: str) -> None:
        """Remove a folder."""
        self.ask("remove")
        self.local.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        """Empty a folder."""
        self.ask("remove")
        self.local.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        """Refuse to remove everything."""
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        """Remove a file."""
        self.ask("remove")
        self.local.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        """Rename a file, as a copy and a removal."""
        self.ask("write")
        self.local.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        """Copy a file."""
        self.ask("write")
        self.local.copy_file(src, dest)


def slow_store(folder: Path, seconds: float = 0.0) -> tuple[Store, SlowFiles]:
    """Return a local store as one below a URI, and its files."""
    store, slow = Store(str(folder)), SlowFiles(seconds)
    store.files.filesystem, store.files.is_local = fs.PyFileSystem(slow), False
    return store, slow
