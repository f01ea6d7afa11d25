"""Content-addressed stage outputs: a stage exists whole or not at all.

Below the root, a local directory or a URI:

    stages/ID/manifest.json   what the stage is, its metrics, its files with their hashes
    stages/ID/...             a Hugging Face directory where the stage has weights; below a URI in
                              a folder for each upload, of which the manifest names one
    rows/KEY.json             one row per cell and evaluation
    tokens/ID.safetensors     tokenised texts, once per sweep
    checkpoints/ID/STEP/...   half-done training, with a manifest of the same kind
    set-aside/...             what was found damaged; below a URI that is deleted

Files are written aside and the manifest comes last (locally: one rename), so whoever finds a
manifest finds everything it names.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.store.files import (
    SCRATCH,
    Files,
    describe_files,
    owned_name,
    read_object,
    sync,
    sync_tree,
)
from orchestrator.store.manifests import (
    MANIFEST,
    content,
    is_complete,
    manifest_bytes,
    place,
    read_manifest,
)

FOLDER = "pulse"

logger = logging.getLogger(__name__)

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
            # Rows outlive a loss of power, so what they tell of has to; a checkpoint may get lost.
            # On a virtual disk it takes 15 ms for the embedded model, 6 for an evaluation.
            durable = folder == "stages"
            if durable:
                sync_tree(aside)
            place(aside, Path(self.join(folder, name)))
            if durable:
                sync(self.join(folder))
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def publish_upload(
        self, folder: str, name: str, directory: Path, record: dict[str, Any]
    ) -> None:
        """As `publish` where nothing can be renamed: two who do so at a time never mix files."""
        upload = uuid.uuid4().hex
        files = self.upload_all(folder, f"{name}/{upload}", directory)
        if is_complete(self.manifest(folder, name)):
            if files:
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
            return read_manifest(self.read_bytes(folder, name, MANIFEST))
        except FileNotFoundError:
            return None

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
        said = "%s/%s is damaged (%s); %s and computed again"
        logger.warning(said, folder, name, why, self.put_away)
        try:
            if self.is_local:
                target = self.join("set-aside", f"{name}-{uuid.uuid4().hex[:8]}")
                self.filesystem.create_dir(self.join("set-aside"), recursive=True)
                os.replace(self.join(folder, name), target)
            else:
                self.filesystem.delete_dir(self.join(folder, name))
        except FileNotFoundError:
            pass  # Another sweep on this store was quicker.

    @property
    def put_away(self) -> str:
        """What `set_aside` does, in words: below a URI nothing can be moved."""
        return "set aside" if self.is_local else "deleted"

    @contextmanager
    def opened(self, folder: str, name: str) -> Iterator[Path]:
        """The files of a stage or checkpoint as a local directory, fetched if they are remote."""
        manifest = {} if self.is_local else self.manifest(folder, name) or {}
        with self.fetched(*content(folder, name, manifest)) as directory:
            yield directory

    # Stages -------------------------------------------------------------------------------------

    def stages(self) -> dict[str, dict[str, Any]]:
        """Manifests of all published stages by id; damaged ones are set aside, and said."""
        found, damaged = self.check_stages()
        self.set_aside_stages(damaged)
        return found

    def check_stages(self) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Manifests of all whole stages, and what is wrong with the others, by id; only looks."""
        names = sorted(name for name in self.names("stages") if not name.startswith("."))
        checks = dict(zip(names, self.for_each(names, self.check_stage), strict=True))
        damaged = {name: why for name, (_, why) in checks.items() if why is not None}
        whole = {n: m for n, (m, _) in checks.items() if m is not None and n not in damaged}
        return whole, damaged

    def check_stage(self, name: str) -> tuple[dict[str, Any] | None, str | None]:
        """As `check`, but nothing is wrong where no stage is yet, or no longer."""
        manifest, why = self.check("stages", name, deep=False)
        if manifest is None:
            if not (self.is_local and os.path.isdir(self.join("stages", name))):
                # Remote: another writer may be half way. Local: it took the old directory away.
                return None, None
            # It may have put a new one there since.
            manifest, why = self.check("stages", name, deep=False)
        if manifest is not None and manifest.get("id") != name:
            why = "the manifest of another stage"
        return manifest, why

    def set_aside_stages(self, names: Iterable[str]) -> None:
        """Sets those aside that are damaged still: another sweep may have computed them again."""
        for name in names:
            _, why = self.check_stage(name)
            if why is not None:
                self.set_aside("stages", name, why)

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
        try:
            self.filesystem.delete_file(self.join("rows", f"{key}.json"))
        except FileNotFoundError:
            pass  # There was none, or another sweep was quicker.

    def rows(self, keys: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Rows by key: all, or of some keys those that are there."""
        found = {}
        names = sorted(name for name in self.names("rows") if name.endswith(".json"))
        if keys is not None:
            names = [name for name in names if name.removesuffix(".json") in keys]
        for name, data in zip(names, self.for_each(names, self.read_row), strict=True):
            row = None if data is None else read_object(data)
            if row is not None:
                found[name.removesuffix(".json")] = row
            elif data is not None:
                logger.warning("rows/%s cannot be read and is left out", name)
        return found

    def read_row(self, name: str) -> bytes | None:
        """The file of a row; None where another sweep has removed it, to compute it again."""
        try:
            return self.read_bytes("rows", name)
        except FileNotFoundError:
            return None
