"""A local directory that pyarrow uses through Python, file operation by file operation.

Each operation raises Python's audit events, which `kills.py` counts. As below a URI, a file appears
whole once it is closed, a folder is deleted file by file, and nothing can be renamed.
"""

from __future__ import annotations

import io
import os
import shutil
import uuid
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

HALF = ".half"
"""Ends the names of what is not a file yet. On an object store nobody sees it."""


class Disk(fs.FileSystemHandler):
    """The handler behind `fs.PyFileSystem(Disk())`."""

    def get_type_name(self) -> str:
        """Return the name of the kind of file system."""
        return "disk"

    def normalize_path(self, path: str) -> str:
        """Return a path in its usual form."""
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Return types, sizes and times."""
        return [self.info(path) for path in paths]

    def info(self, path: str) -> fs.FileInfo:
        """Return type, size and time of one path."""
        try:
            found = os.stat(path)
        except OSError:
            return fs.FileInfo(path, fs.FileType.NotFound)
        if os.path.isdir(path):
            return fs.FileInfo(path, fs.FileType.Directory)
        return fs.FileInfo(path, fs.FileType.File, size=found.st_size, mtime_ns=found.st_mtime_ns)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """Return what is below a folder."""
        below = Path(selector.base_dir).glob("**/*" if selector.recursive else "*")
        found = [self.info(str(path)) for path in below if path.suffix != HALF]
        return [info for info in found if info.type != fs.FileType.NotFound]

    def create_dir(self, path: str, recursive: bool) -> None:
        """Make a folder; an object store has none, so this is never killed half way."""
        os.makedirs(path, exist_ok=True)

    def delete_dir(self, path: str) -> None:
        """Delete the files below a folder, one after the other."""
        if not os.path.isdir(path):
            raise FileNotFoundError(path)
        for file in sorted(each for each in Path(path).rglob("*") if each.is_file()):
            file.unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool) -> None:
        """Delete what is below a folder."""
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> None:
        """Refuse to delete everything."""
        raise NotImplementedError

    def delete_file(self, path: str) -> None:
        """Delete one file."""
        os.remove(path)

    def move(self, src: str, dest: str) -> None:
        """Move a file, as pyarrow does below a URI: a copy, then a deletion."""
        self.copy_file(src, dest)
        os.remove(src)

    def copy_file(self, src: str, dest: str) -> None:
        """Copy a file."""
        with Whole(dest) as target:
            target.write(Path(src).read_bytes())

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """Open a file to be read from its beginning."""
        return pa.PythonFile(io.BytesIO(Path(path).read_bytes()), mode="r")

    def open_input_file(self, path: str) -> pa.NativeFile:
        """Open a file to be read anywhere."""
        return self.open_input_stream(path)

    def open_output_stream(self, path: str, metadata: object) -> pa.NativeFile:
        """Open a file that appears whole when it is closed."""
        return pa.PythonFile(Whole(path), mode="w")

    def open_append_stream(self, path: str, metadata: object) -> pa.NativeFile:
        """Refuse to append, as object stores do."""
        raise NotImplementedError


class Whole(io.BytesIO):
    """Bytes that become a file when they are closed."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def close(self) -> None:
        """Write the file aside and rename it."""
        if not self.closed:
            half = Path(f"{self.path}.{uuid.uuid4().hex}{HALF}")
            # An object store has no folders that must be there.
            half.parent.mkdir(parents=True, exist_ok=True)
            half.write_bytes(self.getvalue())
            os.replace(half, self.path)
        super().close()
