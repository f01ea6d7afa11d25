"""Published directories: a stage or a checkpoint, its files and a manifest that names them.

Each writer brings its files in a folder of its own. The manifest names one of these folders, and
is replaced whole. So a reader finds a whole directory at every moment, whoever publishes or drops.
Older versions put the files of a local store beside the manifest; those are read as they are.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from orchestrator.store.files import Files
from orchestrator.store.local_files import describe_files, place, sync, sync_tree
from orchestrator.store.manifests import (
    MANIFEST,
    dated,
    fault_of,
    is_complete,
    manifest_bytes,
    read_manifest,
)
from orchestrator.store.names import UnsafeNameError
from orchestrator.store.scratch import Scratch

SET_ASIDE = "set-aside"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """The directory folder/name of a store, which may not exist yet."""

    files: Files
    folder: str
    name: str
    durable: bool = False
    """True if the directory has to survive a loss of power."""

    # Write --------------------------------------------------------------------------------------

    def publish(self, directory: Path, record: dict[str, Any]) -> None:
        """Make the files of `directory` appear here, with a manifest around `record`.

        The files may be moved away. If an equal directory was published meanwhile, that one stays.
        """
        upload = uuid.uuid4().hex
        self.publish_parts([self.upload(directory, upload)], upload, record)

    def upload(self, directory: Path, upload: str) -> dict[str, Any]:
        """Bring files here without a manifest, below a folder of their own.

        Two writers at a time never mix, since each has another folder.

        Returns:
            Sizes and hashes by relative name.
        """
        at = (self.folder, self.name, upload)
        if not self.files.is_local:
            return self.files.upload_all(directory, *at)
        described = describe_files(directory)
        if described:
            aside = self.files.aside()
            try:
                shutil.move(directory, aside)
                # On a virtual disk this takes 15 ms for the embedded model.
                if self.durable:
                    sync_tree(aside)
                # The weights of a streamed model may have been written long ago.
                os.utime(aside)
                place(aside, Path(self.files.join(*at)))
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        return described

    def publish_parts(
        self, parts: list[dict[str, Any]], upload: str, record: dict[str, Any]
    ) -> None:
        """Write the manifest of files that one or several processes have uploaded."""
        files = {relative: entry for part in parts for relative, entry in part.items()}
        if is_complete(self.manifest()):
            if files:
                self.files.delete_folder(self.folder, self.name, upload)
            return
        named = {"upload": upload} if files else {}
        self.write_manifest(dated({**record, "files": files, **named}))

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest."""
        self.files.write_bytes(manifest_bytes(manifest), self.folder, self.name, MANIFEST)
        if self.durable and self.files.is_local:
            sync(self.files.join(self.folder, self.name))
            sync(self.files.join(self.folder))

    def drop(self) -> None:
        """Remove the files and keep the rest of the manifest, which changes first.

        It goes on naming the folder, so that a later sweep can remove what a crash leaves there.
        """
        manifest = self.manifest()
        if manifest is None or not manifest["files"]:
            return
        self.write_manifest({**manifest, "files": {}, "dropped": True})
        if "upload" in manifest:
            self.files.delete_folder(*self.content(manifest))
            return
        for relative in manifest["files"]:
            self.files.delete(*self.content(manifest), relative)

    # Read ---------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest, or None if there is none that can be read."""
        data = self.files.try_read(self.folder, self.name, MANIFEST)
        return None if data is None else read_manifest(data)

    def content(self, manifest: dict[str, Any]) -> tuple[str, ...]:
        """Return the folder of the files that a manifest names, as parts of a path."""
        at = (self.folder, self.name)
        return (*at, manifest["upload"]) if "upload" in manifest else at

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """The files as a local directory, which stays whole whatever other sweeps do meanwhile.

        Raises:
            FileNotFoundError: the files are not there.
        """
        manifest = self.manifest()
        with ExitStack() as stack:
            while True:
                try:
                    directory = self.take(manifest, stack)
                    break
                except OSError:
                    # Another sweep may have dropped or replaced the files.
                    again = self.manifest()
                    if again == manifest:
                        raise
                    manifest = again
            yield directory

    def take(self, manifest: dict[str, Any] | None, stack: ExitStack) -> Path:
        """Return a local directory with the files that a manifest names.

        Those of a remote store are copied. Local ones get a second name, so that they outlive
        their removal. Where the store cannot be written, or its disk has no second names, the
        stored files themselves are returned.
        """
        if not is_complete(manifest):
            raise FileNotFoundError(f"{self.folder}/{self.name} has no files in the store")
        assert manifest is not None
        at, names = self.content(manifest), manifest["files"]
        if not self.files.is_local:
            directory = stack.enter_context(Scratch(self.files).directory())
            self.files.fetch(directory, *at)
            for name in names:
                (directory / name).stat()
            return directory
        sources = {name: self.files.join(*at, name) for name in names}
        try:
            directory = stack.enter_context(Scratch(self.files).directory())
            for name, source in sources.items():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(source, directory / name)
            return directory
        except FileNotFoundError:
            raise
        except OSError:
            return Path(self.files.join(*at))

    # Check --------------------------------------------------------------------------------------

    def check(self, deep: bool) -> tuple[dict[str, Any] | None, str | None]:
        """Return the manifest, and what is wrong with it or its files (None if nothing is).

        If another sweep drops or replaces the files meanwhile, its manifest counts.
        """
        manifest = self.manifest()
        while True:
            if manifest is None:
                return None, self.fault()
            why, error = None, None
            try:
                why = self.damage(manifest, deep)
            except OSError as raised:
                error = raised
            again = manifest if why is None and error is None else self.manifest()
            if again == manifest:
                if error is not None:
                    raise error
                return manifest, why
            manifest = again

    def fault(self) -> str:
        """Return why there is no manifest."""
        data = self.files.try_read(self.folder, self.name, MANIFEST)
        return (None if data is None else fault_of(data)) or "it has no manifest"

    def is_absent(self) -> bool:
        """Return True if there is nothing here, or only what another writer has not finished."""
        return not (self.files.exists(self.folder, self.name, MANIFEST) or self.loose_files())

    def loose_files(self) -> list[str]:
        """Return the names of files beside the manifest, as older versions wrote them."""
        found = self.files.infos(self.folder, self.name)
        names = [info.base_name for info in found if info.type == fs.FileType.File]
        return [name for name in names if name != MANIFEST and not name.endswith(".tmp")]

    def damage(self, manifest: dict[str, Any], deep: bool) -> str | None:
        """Return what is wrong with the files that a manifest names, None if nothing is.

        Args:
            manifest: the manifest to compare with.
            deep: read and hash every file. Otherwise only files younger than the manifest are
                hashed: it is written last, so a younger file was changed.
        """
        at = self.content(manifest)
        try:
            _, written = self.files.size_and_time(self.folder, self.name, MANIFEST)
            for relative, expected in manifest["files"].items():
                size, time = self.files.size_and_time(*at, relative)
                if size is None:
                    return f"{relative} is missing"
                if size != expected["size"]:
                    return f"{relative} has {size} bytes instead of {expected['size']}"
                if deep or time > written:
                    if self.files.digest(*at, relative) != expected["sha256"]:
                        return f"{relative} has changed since it was written"
        except UnsafeNameError as error:
            return str(error)
        return None

    def set_aside(self, why: str) -> None:
        """Move a damaged directory out of the way, so that it is computed again."""
        said = "%s/%s is damaged (%s); %s and computed again"
        logger.warning(said, self.folder, self.name, why, self.fate)
        manifest = self.manifest() or {}
        # What another writer has brought here, and not named yet, stays.
        names = [MANIFEST, manifest["upload"]] if "upload" in manifest else [MANIFEST]
        names += [] if "upload" in manifest else self.loose_files()
        target = f"{SET_ASIDE}/{self.name}-{uuid.uuid4().hex[:8]}"
        for name in names:
            self.files.move_or_delete(f"{self.folder}/{self.name}/{name}", f"{target}/{name}")
        self.files.delete_if_empty(self.folder, self.name)

    @property
    def fate(self) -> str:
        """The outcome of `set_aside`, in words. Below a URI nothing can be moved."""
        return "set aside" if self.files.is_local else "deleted"
