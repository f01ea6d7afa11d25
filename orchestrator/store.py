"""Content-addressed stage outputs: a stage exists whole or not at all.

Below the root, a local directory or a URI:

    stages/ID/manifest.json   what the stage is, its metrics, its files with their hashes
    stages/ID/...             a Hugging Face directory where the stage has weights; below a URI in
                              a folder for each upload, of which the manifest names one
    rows/KEY.json             one row per cell and evaluation
    tokens/ID.safetensors     tokenised texts, once per sweep
    checkpoints/ID/STEP/...   half-done training, with a manifest of the same kind
    set-aside/...             what was found damaged

Files are written aside and the manifest comes last (locally: one rename), so whoever finds a
manifest finds everything it names.
"""

from __future__ import annotations

import datetime
import errno
import json
import logging
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.files import SCRATCH, Files, describe_files, owned_name

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MARKER = "sweep-store.json"
"""What tells an out-dir from any other directory."""


class Store(Files):
    """Stages, rows, tokens and checkpoints of one out-dir."""

    # Directories with a manifest ---------------------------------------------------------------

    def publish(self, folder: str, name: str, directory: Path, record: dict[str, Any]) -> None:
        """Makes the files of `directory` and a manifest around `record` appear at folder/name.

        The files are moved away. If an equal stage was published meanwhile, that one stays.
        """
        if not self.is_local:
            self.publish_upload(folder, name, directory, record)
            return
        data = manifest_bytes({**record, "files": describe_files(directory)})
        aside = Path(self.join(SCRATCH, owned_name()))
        aside.parent.mkdir(parents=True, exist_ok=True)
        Path(self.join(folder)).mkdir(parents=True, exist_ok=True)
        try:
            shutil.move(directory, aside)
            (aside / MANIFEST).write_bytes(data)
            place(aside, Path(self.join(folder, name)))
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def publish_upload(
        self, folder: str, name: str, directory: Path, record: dict[str, Any]
    ) -> None:
        """As `publish` where nothing can be renamed: two who do so at a time never mix files."""
        upload = uuid.uuid4().hex
        files = self.upload_all(folder, f"{name}/{upload}", directory)
        if (self.manifest(folder, name) or {}).get("files"):
            self.filesystem.delete_dir(self.join(folder, name, upload))
            return
        data = manifest_bytes({**record, "files": files, "upload": upload})
        self.write_bytes(data, folder, name, MANIFEST)

    def publish_parts(
        self, folder: str, name: str, parts: list[dict[str, Any]], record: dict[str, Any]
    ) -> None:
        """Writes the manifest of files that several processes have uploaded, last of all."""
        files = {relative: entry for part in parts for relative, entry in part.items()}
        manifest = {**record, "files": files}
        self.write_bytes(json.dumps(manifest, indent=1).encode(), folder, name, MANIFEST)

    def manifest(self, folder: str, name: str) -> dict[str, Any] | None:
        """A manifest, or None where there is none that can be read."""
        try:
            manifest = json.loads(self.read_bytes(folder, name, MANIFEST))
        except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
            return None
        return manifest if isinstance(manifest, dict) and "files" in manifest else None

    def check(self, folder: str, name: str, deep: bool) -> tuple[dict[str, Any] | None, str | None]:
        """The manifest, and what is wrong with it or its files.

        Another sweep may drop or replace the files meanwhile: then its manifest counts.
        """
        manifest = self.manifest(folder, name)
        while True:
            if manifest is None:
                return None, "no readable manifest"
            why = self.damage(folder, name, manifest, deep)
            again = manifest if why is None else self.manifest(folder, name)
            if again == manifest:
                return manifest, why
            manifest = again

    def damage(self, folder: str, name: str, manifest: dict[str, Any], deep: bool) -> str | None:
        """What is wrong with the files a manifest names.

        `deep` reads and hashes all of them; else those that are younger than the manifest, which is
        written last, so that a file changed since is found at once.
        """
        _, written = self.size_and_time(folder, name, MANIFEST)
        at = content(folder, name, manifest)
        for relative, expected in manifest["files"].items():
            size, time = self.size_and_time(*at, relative)
            if size is None:
                return f"{relative} is missing"
            if size != expected["size"]:
                return f"{relative} has {size} bytes instead of {expected['size']}"
            if deep or time > written:
                if self.digest(*at, relative) != expected["sha256"]:
                    return f"{relative} has changed since it was written"
        return None

    def set_aside(self, folder: str, name: str, why: str) -> None:
        """Moves something damaged out of the way, so that it is computed again."""
        target = self.join("set-aside", f"{name}-{uuid.uuid4().hex[:8]}")
        logger.warning("%s/%s is damaged (%s); set aside and computed again", folder, name, why)
        self.filesystem.create_dir(self.join("set-aside"), recursive=True)
        try:
            if self.is_local:
                os.replace(self.join(folder, name), target)
            else:
                self.filesystem.delete_dir(self.join(folder, name))
        except FileNotFoundError:
            pass  # Another sweep on this store was quicker.

    @contextmanager
    def opened(self, folder: str, name: str) -> Iterator[Path]:
        """The files of a stage or checkpoint as a local directory, fetched if they are remote."""
        manifest = {} if self.is_local else self.manifest(folder, name) or {}
        with self.fetched(*content(folder, name, manifest)) as directory:
            yield directory

    # Stages -------------------------------------------------------------------------------------

    def stages(self) -> dict[str, dict[str, Any]]:
        """Manifests of all published stages by id; damaged ones are set aside, and said."""
        found = {}
        names = sorted(name for name in self.names("stages") if not name.startswith("."))
        checks = self.for_each(names, lambda name: self.check("stages", name, deep=False))
        for name, (manifest, why) in zip(names, checks, strict=True):
            if manifest is None and not os.path.isdir(self.join("stages", name)):
                # Remote: another writer may be half way. Local: it took the old directory away.
                continue
            if manifest is not None and manifest.get("id") != name:
                why = "the manifest of another stage"
            if why is not None:
                self.set_aside("stages", name, why)
            elif manifest is not None:
                found[name] = manifest
        return found

    def drop_weights(self, stage_id: str) -> None:
        """Removes a stage's files and keeps its metrics; the manifest changes first."""
        manifest = self.manifest("stages", stage_id)
        if manifest is None or not manifest["files"]:
            return
        files, at = manifest["files"], content("stages", stage_id, manifest)
        data = json.dumps({**manifest, "files": {}, "dropped": True}, indent=1).encode()
        self.write_bytes(data, "stages", stage_id, MANIFEST)
        for relative in files:
            try:
                self.filesystem.delete_file(self.join(*at, relative))
            except FileNotFoundError:
                pass

    # Checkpoints --------------------------------------------------------------------------------

    def latest_checkpoint(self, stage_id: str) -> str | None:
        """Folder name of the newest whole checkpoint of a training stage."""
        folder = f"checkpoints/{stage_id}"
        for name in sorted((n for n in self.names(folder) if n.isdigit()), key=int, reverse=True):
            manifest, why = self.check(folder, name, deep=True)
            if manifest is None:
                continue
            if why is None:
                return name
            self.set_aside(folder, name, why)
        return None

    def delete_checkpoints(self, stage_id: str, but: str | None = None) -> None:
        """Removes a stage's checkpoints, all but one if named."""
        folder = f"checkpoints/{stage_id}"
        unwanted = [f"{folder}/{name}" for name in self.names(folder) if name != but]
        if but is None and self.names("checkpoints") & {stage_id}:
            unwanted.append(folder)
        for path in unwanted:
            try:
                self.filesystem.delete_dir(self.join(path))
            except OSError:
                pass  # Another sweep is at it too; what is left is only not needed.

    # Rows ---------------------------------------------------------------------------------------

    def put_row(self, key: str, row: dict[str, Any]) -> None:
        """Writes one row; NaN and infinity stay what they are."""
        self.write_bytes(json.dumps(row, indent=1).encode(), "rows", f"{key}.json")

    def delete_row(self, key: str) -> None:
        """Removes a row that is about to be computed again."""
        if self.exists("rows", f"{key}.json"):
            self.filesystem.delete_file(self.join("rows", f"{key}.json"))

    def rows(self, keys: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Rows by key: all, or of some keys those that are there."""
        found = {}
        names = sorted(name for name in self.names("rows") if name.endswith(".json"))
        if keys is not None:
            names = [name for name in names if name.removesuffix(".json") in keys]
        texts = self.for_each(names, lambda name: self.read_bytes("rows", name))
        for name, text in zip(names, texts, strict=True):
            try:
                found[name.removesuffix(".json")] = json.loads(text)
            except json.JSONDecodeError:
                logger.warning("rows/%s cannot be read and is left out", name)
        return found


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """The file of a manifest that is published now."""
    now = datetime.datetime.now(datetime.UTC).isoformat()
    return json.dumps({**manifest, "published_at": now}, indent=1).encode()


def content(folder: str, name: str, manifest: dict[str, Any]) -> tuple[str, ...]:
    """Where the files are that a manifest names."""
    return (folder, name, manifest["upload"]) if "upload" in manifest else (folder, name)


def place(aside: Path, final: Path) -> None:
    """Renames a finished directory into place; an equal one that came first stays."""
    while True:
        try:
            os.rename(aside, final)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        try:
            if json.loads((final / MANIFEST).read_bytes())["files"]:
                return
        except (OSError, ValueError):
            pass
        # Weights dropped earlier and computed again, or leftovers without a manifest.
        old = aside.with_name(owned_name())
        try:
            os.rename(final, old)
        except FileNotFoundError:
            continue  # Another writer took them away first.
        shutil.rmtree(old, ignore_errors=True)
