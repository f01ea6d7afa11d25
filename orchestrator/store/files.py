"""Files below one root, a local directory or a URI, read and written whole.

The rest of the store is built on this file. It chooses the filesystem and does not know what the
files mean.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import posixpath
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import ArrowInvalid, Buffer, fs

from core.checks import BadInputError

T = TypeVar("T")

REQUESTS = 32
"""Requests at a time to a remote store. Each takes long to answer and costs nothing meanwhile."""


class Files:
    """Reads, writes, copies and removes below a root.

    `parts` are the parts of a path below the root.
    """

    def __init__(self, root: str) -> None:
        """Name a place. This creates nothing.

        Raises:
            ValueError: the kind of URI is unknown.
        """
        self.root = root
        if "://" in root:
            try:
                self.filesystem, self.path = fs.FileSystem.from_uri(root)
            except ArrowInvalid as error:
                raise BadInputError(str(error)) from None
        else:
            self.filesystem, self.path = fs.LocalFileSystem(), os.path.abspath(root)
        self.is_local = isinstance(self.filesystem, fs.LocalFileSystem)

    def join(self, *parts: str) -> str:
        """Return a path below the root, as `filesystem` takes it."""
        return "/".join((self.path.rstrip("/"), *parts))

    def uri(self, *parts: str) -> str:
        """Return the root, or a path below it, in the form that other machines can open."""
        return "/".join((self.path, *parts)) if self.is_local else self.display(*parts)

    def display(self, *parts: str) -> str:
        """Return the root, or a path below it, in the form that the user gave the root in."""
        # The options of a URI (?region=...) come after its path.
        root = self.root
        base, mark, options = root.partition("?") if "://" in root else (root, "", "")
        return "/".join((base.rstrip("/"), *parts)) + mark + options

    def names(self, folder: str) -> set[str]:
        """Return the names directly below a folder, none if it does not exist."""
        selector = fs.FileSelector(self.join(folder), allow_not_found=True)
        return {info.base_name for info in self.filesystem.get_file_info(selector)}

    def for_each(self, names: Iterable[str], function: Callable[[str], T]) -> Iterator[T]:
        """Yield `function(name)` for each name in turn; many run at a time if files are remote."""
        if self.is_local:
            yield from map(function, names)
            return
        with ThreadPoolExecutor(REQUESTS) as pool:
            yield from pool.map(function, names)

    def exists(self, *parts: str) -> bool:
        """Return True if a file exists."""
        return self.size(*parts) is not None

    def size(self, *parts: str) -> int | None:
        """Return the size of a file in bytes, None if there is no such file."""
        return self.size_and_time(*parts)[0]

    def size_and_time(self, *parts: str) -> tuple[int | None, int]:
        """Return `size`, and when the file was last written: nanoseconds of its own clock."""
        info = self.filesystem.get_file_info(self.join(*parts))
        return (info.size if info.type == fs.FileType.File else None), info.mtime_ns or 0

    def digest(self, *parts: str) -> str | None:
        """Return the SHA-256 of a file, None if there is no such file."""
        try:
            with self.filesystem.open_input_stream(self.join(*parts)) as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()  # pyright: ignore
        except FileNotFoundError:
            return None

    def read_bytes(self, *parts: str) -> bytes:
        """Read a whole file."""
        with self.filesystem.open_input_stream(self.join(*parts)) as stream:
            return stream.readall()

    def try_read(self, *parts: str) -> bytes | None:
        """Read a whole file; None if it does not exist, perhaps because a sweep removed it."""
        try:
            return self.read_bytes(*parts)
        except FileNotFoundError:
            return None

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Replace a file whole: other readers see the old file or the new one."""
        path = self.join(*parts)
        self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
        if not self.is_local:
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        aside = f"{path}.{uuid.uuid4().hex}.tmp"
        try:
            with open(aside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            Path(aside).unlink(missing_ok=True)

    def delete(self, *parts: str) -> None:
        """Remove a file, if it exists."""
        try:
            self.filesystem.delete_file(self.join(*parts))
        except FileNotFoundError:
            pass  # There was none, or another sweep was quicker.

    def delete_folder(self, *parts: str) -> None:
        """Remove a folder and everything below it."""
        self.filesystem.delete_dir(self.join(*parts))

    def upload_all(self, directory: Path, *parts: str) -> dict[str, Any]:
        """Copy the files of a local directory; return their sizes and hashes by relative name."""
        described = describe_files(directory)
        for relative in described:
            target = self.join(*parts, relative)
            self.filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
            source = str(directory / relative)
            fs.copy_files(source, target, fs.LocalFileSystem(), self.filesystem)
        return described

    @contextmanager
    def fetched(self, *parts: str) -> Iterator[Path]:
        """A directory as a local one; a remote one is copied for the time of the `with` block."""
        if self.is_local:
            yield Path(self.join(*parts))
            return
        with tempfile.TemporaryDirectory() as directory:
            source = self.join(*parts)
            fs.copy_files(source, directory, self.filesystem, fs.LocalFileSystem())
            yield Path(directory)


def read_object(data: bytes) -> dict[str, Any] | None:
    """Parse a file that holds a JSON object; None if it holds something else."""
    try:
        found = json.loads(data)
    except ValueError:  # Not JSON, or not text at all.
        return None
    return found if isinstance(found, dict) else None


def sync(path: str | Path) -> None:
    """Wait until a file, or the list of names in a directory, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot fsync a directory.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sync_tree(directory: Path) -> None:
    """Wait until a directory and everything below it is on the disk."""
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)


def replace_file(
    data: bytes | Buffer,
    path: str | os.PathLike[str],
    filesystem: fs.FileSystem | None = None,
) -> None:
    """Write `data` whole: to a name beside `path`, then rename it. Local without a filesystem."""
    target = os.fspath(path)
    files = filesystem or fs.LocalFileSystem()
    folder, name = posixpath.split(target)
    if folder:
        files.create_dir(folder, recursive=True)
    aside = posixpath.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with files.open_output_stream(aside) as stream:
            stream.write(data)
        if isinstance(files, fs.LocalFileSystem):
            sync(aside)
        files.move(aside, target)
    except BaseException:
        if files.get_file_info(aside).type != fs.FileType.NotFound:
            files.delete_file(aside)
        raise


def describe_files(directory: Path) -> dict[str, Any]:
    """Return the size and hash of every file below a directory, by relative name."""
    return {
        file.relative_to(directory).as_posix(): {
            "size": file.stat().st_size,
            "sha256": sha256(file),
        }
        for file in sorted(p for p in directory.rglob("*") if p.is_file())
    }


def sha256(path: Path) -> str:
    """Return the SHA-256 of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
