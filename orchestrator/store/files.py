"""Files below one root, a local directory or a URI, read and written whole.

The rest of the store is built on this file. It chooses the filesystem and does not know what the
files mean.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import ArrowInvalid, Buffer, fs

from core.checks import BadInputError
from orchestrator.store.local_files import describe_files, place, sync
from orchestrator.store.names import UnsafeNameError, is_safe, leads_out
from orchestrator.store.owners import owned_name

T = TypeVar("T")

logger = logging.getLogger(__name__)

SCRATCH = ".scratch"
"""The folder of everything that is being written, on the disk of a local store."""
REQUESTS = 128
"""Requests at a time to a remote store. Each takes long to answer and costs nothing meanwhile."""
Stamp = tuple[int, int]
"""The time when a file was last written, in nanoseconds of its own clock, and its size."""


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
            # Arrow opens as many connections as it has threads.
            pa.set_io_thread_count(max(REQUESTS, pa.io_thread_count()))
            try:
                self.filesystem, self.path = fs.FileSystem.from_uri(root)
            except ArrowInvalid as error:
                raise BadInputError(str(error)) from None
        else:
            self.filesystem, self.path = fs.LocalFileSystem(), slashes(os.path.abspath(root))
        self.is_local = isinstance(self.filesystem, fs.LocalFileSystem)

    def join(self, *parts: str) -> str:
        """Return a path below the root, as `filesystem` takes it.

        Every path of the store is made here.

        Raises:
            UnsafeNameError: it would lead out of the root.
        """
        name = "/".join(parts)
        if not is_safe(name) or (self.is_local and leads_out(self.path, name)):
            raise UnsafeNameError(self.root, name)
        return f"{self.path.rstrip('/')}/{name}"

    def entry(self, *parts: str) -> str:
        """Return a path like `join`, to be removed or renamed. Its last part may be any link."""
        folder, _, name = "/".join(parts).rpartition("/")
        if not is_safe(name):
            raise UnsafeNameError(self.root, name)
        return f"{self.join(folder) if folder else self.path.rstrip('/')}/{name}"

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
        return {info.base_name for info in self.infos(folder)}

    def infos(self, *folder: str, recursive: bool = False) -> list[fs.FileInfo]:
        """Return what is below a folder, or the root, with types, sizes and times.

        There is nothing below a folder that does not exist.
        """
        path = self.join(*folder) if folder else self.path
        selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
        return self.filesystem.get_file_info(selector)

    def stamps(self, folder: str, ending: str) -> dict[str, Stamp]:
        """Return the files of a folder whose names end so, each with its time and size.

        Any replacement of a file changes its stamp.
        """
        found = (info for info in self.infos(folder) if info.base_name.endswith(ending))
        return {info.base_name: stamp_of(info) for info in found}

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
        """Read a whole file; None if it does not exist, perhaps because a sweep removed it.

        There is nothing under a name that leads out of the root either; a warning tells it.
        """
        try:
            return self.read_bytes(*parts)
        except FileNotFoundError:
            return None
        except UnsafeNameError as error:
            logger.warning("%s", error)
            return None

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Replace a file whole: other readers see the old file or the new one."""
        path = self.join(*parts)
        if not self.is_local:
            self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        aside = self.aside()
        try:
            with open(aside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            place(aside, Path(path))
        finally:
            aside.unlink(missing_ok=True)

    def aside(self) -> Path:
        """Return a new path on the disk of a local store; its folder exists."""
        path = Path(self.join(SCRATCH, owned_name()))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def now_ns(self) -> int:
        """Return the time by the store's own clock, which dates its files: nanoseconds."""
        name = (SCRATCH, owned_name())
        self.write_bytes(b"", *name)
        try:
            return self.size_and_time(*name)[1]
        finally:
            self.delete(*name)

    def write_note(self, data: bytes, *parts: str) -> None:
        """Write a small file that may be lost or read half, without waiting for the disk."""
        path = self.join(*parts)
        if self.is_local:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def delete(self, *parts: str) -> None:
        """Remove a file, if it exists."""
        try:
            self.filesystem.delete_file(self.entry(*parts))
        except FileNotFoundError:
            pass  # There was none, or another sweep was quicker.

    def delete_folder(self, *parts: str) -> None:
        """Remove a folder and everything below it, if it exists."""
        path = self.entry(*parts)
        if self.is_local:
            if os.path.islink(path):
                Path(path).unlink(missing_ok=True)
            # Another process may remove the same folder.
            shutil.rmtree(path, ignore_errors=True)
            return
        try:
            self.filesystem.delete_dir(path)
        except FileNotFoundError:
            pass

    def delete_if_empty(self, *parts: str) -> None:
        """Remove a local folder without files. A remote folder without files does not exist."""
        if self.is_local:
            try:
                os.rmdir(self.join(*parts))
            except OSError:
                pass

    def move_or_delete(self, path: str, target: str) -> None:
        """Move a local file or folder; delete a remote one, since it cannot be moved."""
        if not self.is_local:
            is_file = self.exists(path)
            (self.delete if is_file else self.delete_folder)(path)
            return
        try:
            place(Path(self.entry(path)), Path(self.join(target)))
        except FileNotFoundError:
            pass  # Another sweep on this store was quicker.

    def upload_all(self, directory: Path, *parts: str) -> dict[str, Any]:
        """Copy the files of a local directory; return their sizes and hashes by relative name."""
        described = describe_files(directory)
        for relative in described:
            target = self.join(*parts, relative)
            self.filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
            source = str(directory / relative)
            fs.copy_files(source, target, fs.LocalFileSystem(), self.filesystem)
        return described

    def fetch(self, directory: Path, *parts: str) -> None:
        """Copy the files of a folder into a local directory."""
        fs.copy_files(self.join(*parts), str(directory), self.filesystem, fs.LocalFileSystem())


def stamp_of(info: fs.FileInfo) -> Stamp:
    """Return the time and the size of a file."""
    return info.mtime_ns or 0, info.size or 0


def read_object(data: bytes) -> dict[str, Any] | None:
    """Parse a file that holds a JSON object; None if it holds something else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):  # Not JSON, not text at all, or nested too deep.
        return None
    return found if isinstance(found, dict) else None


def slashes(path: str) -> str:
    """Return a local path with `/` between its parts, as pyarrow writes paths on every system."""
    return path.replace(os.sep, "/")


def replace_file(
    data: bytes | Buffer,
    path: str | os.PathLike[str],
    filesystem: fs.FileSystem | None = None,
) -> None:
    """Write `data` whole: to a name beside `path`, then rename it. Local without a filesystem."""
    files = filesystem or fs.LocalFileSystem()
    target = slashes(os.fspath(path)) if filesystem is None else os.fspath(path)
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
