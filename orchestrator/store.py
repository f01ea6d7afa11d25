"""Content-addressed stage outputs: a stage exists whole or not at all.

Below the root, a local directory or a URI:

    stages/ID/manifest.json   what the stage is, its metrics, its files with their hashes
    stages/ID/...             a Hugging Face directory where the stage has weights
    rows/KEY.json             one row per cell and evaluation
    tokens/ID.safetensors     tokenised texts, once per sweep
    checkpoints/ID/STEP/...   half-done training, with a manifest of the same kind
    set-aside/...             what was found damaged

Files are written aside and the manifest comes last (locally: one rename), so whoever finds a
manifest finds everything it names.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyarrow import fs

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class Store:
    """Stages, rows, tokens and checkpoints of one out-dir."""

    def __init__(self, root: str) -> None:
        """Opens a store; creates nothing."""
        self.root = root
        if "://" in root:
            self.filesystem, self.path = fs.FileSystem.from_uri(root)
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

    def exists(self, *parts: str) -> bool:
        """Whether a file exists."""
        return self.filesystem.get_file_info(self.join(*parts)).type == fs.FileType.File

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

    # Directories with a manifest ---------------------------------------------------------------

    def publish(self, folder: str, name: str, directory: Path, record: dict[str, Any]) -> None:
        """Makes the files of `directory` and a manifest around `record` appear at folder/name.

        The files are moved away. If an equal stage was published meanwhile, that one stays.
        """
        files = describe_files(directory)
        now = datetime.datetime.now(datetime.UTC).isoformat()
        manifest = {**record, "files": files, "published_at": now}
        data = json.dumps(manifest, indent=1).encode()
        if not self.is_local:
            self.upload_all(folder, name, directory)
            self.write_bytes(data, folder, name, MANIFEST)
            return
        aside = Path(self.join(folder, f".aside-{name}-{uuid.uuid4().hex}"))
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.move(directory, aside)
            (aside / MANIFEST).write_bytes(data)
            place(aside, Path(self.join(folder, name)))
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def publish_parts(
        self, folder: str, name: str, parts: list[dict[str, Any]], record: dict[str, Any]
    ) -> None:
        """Writes the manifest of files that several processes have uploaded, last of all."""
        files = {relative: entry for part in parts for relative, entry in part.items()}
        manifest = {**record, "files": files}
        self.write_bytes(json.dumps(manifest, indent=1).encode(), folder, name, MANIFEST)

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
        directory = Path(self.join(".scratch", uuid.uuid4().hex))
        directory.mkdir(parents=True)
        return directory

    def manifest(self, folder: str, name: str) -> dict[str, Any] | None:
        """A manifest, or None where there is none that can be read."""
        try:
            return json.loads(self.read_bytes(folder, name, MANIFEST))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None

    def damage(self, folder: str, name: str, manifest: dict[str, Any], deep: bool) -> str | None:
        """What is wrong with the files a manifest names; `deep` reads and hashes them."""
        for relative, expected in manifest["files"].items():
            info = self.filesystem.get_file_info(self.join(folder, name, relative))
            if info.type != fs.FileType.File:
                return f"{relative} is missing"
            if info.size != expected["size"]:
                return f"{relative} has {info.size} bytes instead of {expected['size']}"
            if deep:
                with self.filesystem.open_input_stream(self.join(folder, name, relative)) as stream:
                    found = hashlib.file_digest(stream, "sha256").hexdigest()  # pyright: ignore
                if found != expected["sha256"]:
                    return f"{relative} has changed since it was written"
        return None

    def set_aside(self, folder: str, name: str, why: str) -> None:
        """Moves something damaged out of the way, so that it is computed again."""
        target = self.join("set-aside", f"{name}-{uuid.uuid4().hex[:8]}")
        logger.warning("%s/%s is damaged (%s); set aside and computed again", folder, name, why)
        self.filesystem.create_dir(self.join("set-aside"), recursive=True)
        if self.is_local:
            os.replace(self.join(folder, name), target)
        else:
            self.filesystem.delete_dir(self.join(folder, name))

    @contextmanager
    def opened(self, folder: str, name: str) -> Iterator[Path]:
        """The files of a stage or checkpoint as a local directory, fetched if the store is not."""
        if self.is_local:
            yield Path(self.join(folder, name))
            return
        with tempfile.TemporaryDirectory() as directory:
            source = self.join(folder, name)
            fs.copy_files(source, directory, self.filesystem, fs.LocalFileSystem())
            yield Path(directory)

    # Stages -------------------------------------------------------------------------------------

    def stages(self) -> dict[str, dict[str, Any]]:
        """Manifests of all published stages by id; damaged ones are set aside, and said."""
        found = {}
        for name in sorted(self.names("stages")):
            if name.startswith("."):
                continue
            manifest = self.manifest("stages", name)
            if manifest is None and not self.is_local:
                continue  # Another writer may be half way: without a manifest it is not there.
            if manifest is None or manifest.get("id") != name:
                self.set_aside("stages", name, "no readable manifest")
                continue
            why = self.damage("stages", name, manifest, deep=False)
            if why is not None:
                self.set_aside("stages", name, why)
                continue
            found[name] = manifest
        return found

    def drop_weights(self, stage_id: str) -> None:
        """Removes a stage's files and keeps its metrics; the manifest changes first."""
        manifest = self.manifest("stages", stage_id)
        if manifest is None or not manifest["files"]:
            return
        files = manifest["files"]
        data = json.dumps({**manifest, "files": {}, "dropped": True}, indent=1).encode()
        self.write_bytes(data, "stages", stage_id, MANIFEST)
        for relative in files:
            try:
                self.filesystem.delete_file(self.join("stages", stage_id, relative))
            except FileNotFoundError:
                pass

    # Checkpoints --------------------------------------------------------------------------------

    def latest_checkpoint(self, stage_id: str) -> str | None:
        """Folder name of the newest whole checkpoint of a training stage."""
        folder = f"checkpoints/{stage_id}"
        for name in sorted((n for n in self.names(folder) if n.isdigit()), key=int, reverse=True):
            manifest = self.manifest(folder, name)
            if manifest is None:
                continue
            why = self.damage(folder, name, manifest, deep=True)
            if why is None:
                return name
            self.set_aside(folder, name, why)
        return None

    def delete_checkpoints(self, stage_id: str, but: str | None = None) -> None:
        """Removes a stage's checkpoints, all but one if named."""
        folder = f"checkpoints/{stage_id}"
        for name in self.names(folder):
            if name != but:
                self.filesystem.delete_dir(self.join(folder, name))
        if but is None and self.names("checkpoints") & {stage_id}:
            self.filesystem.delete_dir(self.join(folder))

    # Rows ---------------------------------------------------------------------------------------

    def put_row(self, key: str, row: dict[str, Any]) -> None:
        """Writes one row; NaN and infinity stay what they are."""
        self.write_bytes(json.dumps(row, indent=1).encode(), "rows", f"{key}.json")

    def delete_row(self, key: str) -> None:
        """Removes a row that is about to be computed again."""
        if self.exists("rows", f"{key}.json"):
            self.filesystem.delete_file(self.join("rows", f"{key}.json"))

    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows by key."""
        found = {}
        for name in sorted(self.names("rows")):
            if name.endswith(".json"):
                try:
                    found[name.removesuffix(".json")] = json.loads(self.read_bytes("rows", name))
                except json.JSONDecodeError:
                    logger.warning("rows/%s cannot be read and is left out", name)
        return found


def place(aside: Path, final: Path) -> None:
    """Renames a finished directory into place; an equal one that came first stays."""
    try:
        os.rename(aside, final)
    except OSError:
        if (final / MANIFEST).exists() and json.loads((final / MANIFEST).read_bytes())["files"]:
            return
        # Weights dropped earlier and computed again, or leftovers without a manifest.
        old = final.with_name(f".aside-old-{uuid.uuid4().hex}")
        os.rename(final, old)
        os.rename(aside, final)
        shutil.rmtree(old, ignore_errors=True)


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
