"""Files below one root, a local directory or a URI, read and written whole.

What the store is built on: which filesystem that is, is decided here, and nothing here knows what
the files mean.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import posixpath
import shutil
import socket
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

SCRATCH = ".scratch"
REQUESTS = 32
"""At a time to a remote place, where each takes long to answer and costs nothing meanwhile."""


class Files:
    """Reads, writes and copies below a root."""

    def __init__(self, root: str) -> None:
        """Names a place; creates nothing.

        Raises:
            ValueError: a URI of no known kind.
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
        """A path below the root."""
        return "/".join((self.path.rstrip("/"), *parts))

    def uri(self, *parts: str) -> str:
        """The root, or a path below it, as other machines would open it."""
        if self.is_local:
            return "/".join((self.path, *parts))
        # Options of a URI (?region=...) come after its path.
        base, mark, options = self.root.partition("?")
        return "/".join((base.rstrip("/"), *parts)) + mark + options

    def display(self, name: str) -> str:
        """A path as the user named it."""
        base, mark, options = (
            self.root.partition("?") if "://" in self.root else (self.root, "", "")
        )
        return f"{base.rstrip('/')}/{name}{mark}{options}"

    def names(self, folder: str) -> set[str]:
        """Names directly below a folder; none where it does not exist."""
        selector = fs.FileSelector(self.join(folder), allow_not_found=True)
        return {info.base_name for info in self.filesystem.get_file_info(selector)}

    def for_each(self, names: Iterable[str], function: Callable[[str], T]) -> Iterator[T]:
        """A function of each name in turn, many ahead at a time where the files are remote."""
        if self.is_local:
            yield from map(function, names)
            return
        with ThreadPoolExecutor(REQUESTS) as pool:
            yield from pool.map(function, names)

    def exists(self, *parts: str) -> bool:
        """Whether a file exists."""
        return self.size(*parts) is not None

    def size(self, *parts: str) -> int | None:
        """Bytes of a file, None where there is none."""
        return self.size_and_time(*parts)[0]

    def size_and_time(self, *parts: str) -> tuple[int | None, int]:
        """As `size`, and when the file was last written, in nanoseconds of its own clock."""
        info = self.filesystem.get_file_info(self.join(*parts))
        return (info.size if info.type == fs.FileType.File else None), info.mtime_ns or 0

    def digest(self, *parts: str) -> str | None:
        """SHA-256 of a file, None where there is none."""
        try:
            with self.filesystem.open_input_stream(self.join(*parts)) as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()  # pyright: ignore
        except FileNotFoundError:
            return None

    def read_bytes(self, *parts: str) -> bytes:
        """A whole file."""
        with self.filesystem.open_input_stream(self.join(*parts)) as stream:
            return stream.readall()

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Replaces a file whole: other readers see the old or the new one."""
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

    def upload_all(self, folder: str, name: str, directory: Path) -> dict[str, Any]:
        """Copies a directory's files to folder/name without a manifest; describes them."""
        files = describe_files(directory)
        for relative in files:
            self.upload(directory / relative, self.join(folder, name, relative))
        return files

    def upload(self, file: Path, target: str) -> None:
        """Copies a local file to the store's filesystem."""
        self.filesystem.create_dir(target.rsplit("/", 1)[0], recursive=True)
        fs.copy_files(str(file), target, fs.LocalFileSystem(), self.filesystem)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A local directory to write files in before they are published, removed afterwards."""
        directory = self.shared_scratch()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def shared_scratch(self) -> Path:
        """A new directory on the store's own disk, or on this machine's for a remote store."""
        if not self.is_local:
            return Path(tempfile.mkdtemp(prefix="stage-"))
        directory = Path(self.join(SCRATCH, owned_name()))
        directory.mkdir(parents=True)
        return directory

    def tidy(self) -> None:
        """Removes what processes of this machine that were killed left half written."""
        if self.is_local:
            for name in self.names(SCRATCH):
                if is_orphan(name):
                    shutil.rmtree(self.join(SCRATCH, name), ignore_errors=True)

    @contextmanager
    def fetched(self, *parts: str) -> Iterator[Path]:
        """A directory as a local one, copied for as long as it is looked at if it is remote."""
        if self.is_local:
            yield Path(self.join(*parts))
            return
        with tempfile.TemporaryDirectory() as directory:
            source = self.join(*parts)
            fs.copy_files(source, directory, self.filesystem, fs.LocalFileSystem())
            yield Path(directory)


def owned_name() -> str:
    """A new name that says which process of which machine it belongs to."""
    return f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}"


def is_orphan(name: str) -> bool:
    """Whether a name was made on this machine by a process that is no longer there."""
    host, _, rest = name.rpartition(".")[0].rpartition(".")
    if host != socket.gethostname() or not rest.isdigit():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def read_object(data: bytes) -> dict[str, Any] | None:
    """What a file of a JSON object says; None where it is something else."""
    try:
        found = json.loads(data)
    except ValueError:  # No JSON, or no text at all.
        return None
    return found if isinstance(found, dict) else None


def sync(path: str | Path) -> None:
    """Waits until a file, or the list of names in a directory, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network disks know no such thing for a directory.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def sync_tree(directory: Path) -> None:
    """As `sync`, of a directory and all below it."""
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)


def replace_file(
    data: bytes | Buffer,
    path: str | os.PathLike[str],
    filesystem: fs.FileSystem | None = None,
) -> None:
    """Puts `data` at `path` (local, or on a pyarrow filesystem) by rename from a name beside it."""
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
    """Size and hash of every file below a directory, by relative name."""
    return {
        file.relative_to(directory).as_posix(): {
            "size": file.stat().st_size,
            "sha256": sha256(file),
        }
        for file in sorted(p for p in directory.rglob("*") if p.is_file())
    }


def sha256(path: Path) -> str:
    """Hash of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
