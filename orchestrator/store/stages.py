"""Stages: one published directory for each, named by the stage's identity."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pyarrow import fs

from orchestrator.store.files import Files, Stamp, stamp_of
from orchestrator.store.index import FEW, Index
from orchestrator.store.manifests import MANIFEST, fault_in
from orchestrator.store.published import Published

FOLDER = "stages"


class Stages:
    """The stages of a store, by id."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.index = Index(files, FOLDER)

    def at(self, stage_id: str) -> Published:
        """Return the directory of a stage, which may not exist yet."""
        # Rows outlive a loss of power, so the stages that they tell of have to.
        return Published(self.files, FOLDER, stage_id, durable=True)

    def ids(self) -> set[str]:
        """Return the ids of all stages, damaged ones included."""
        return {name for name in self.files.names(FOLDER) if is_id(name)}

    def manifests(self, stage_ids: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the manifests of whole stages by id. Set damaged ones aside and log it.

        Args:
            stage_ids: the stages to look for; all of the store by default.
        """
        found, damaged = self.inspect(stage_ids)
        self.set_aside(damaged)
        return found

    def inspect(
        self, stage_ids: Collection[str] | None = None
    ) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Return the manifests of whole stages, and what is wrong with the others; change nothing.

        Both are by id.

        Args:
            stage_ids: the stages to look for; all of the store by default.
        """
        if stage_ids is not None:
            ids, whole = sorted(stage_ids), {}
        elif self.files.is_local:
            ids, whole = sorted(self.ids()), {}
        else:
            ids, whole = self.listed_whole()
        checks = dict(zip(ids, self.files.for_each(ids, self.check), strict=True))
        damaged = {stage: why for stage, (_, why) in checks.items() if why is not None}
        whole |= {s: m for s, (m, _) in checks.items() if m is not None and s not in damaged}
        return whole, damaged

    def listed_whole(self) -> tuple[list[str], dict[str, dict[str, Any]]]:
        """Return the manifests of stages that are whole as far as one listing of all files tells.

        Checking each stage by itself would take several requests below a URI.

        Returns:
            The ids of all other stages, which have to be checked one by one; and the manifests.
        """
        tree = self.tree()
        paths = {stage: f"{stage}/{MANIFEST}" for stage in sorted(tree) if is_id(stage)}
        listed = {paths[s]: tree[s][MANIFEST] for s in paths if MANIFEST in tree[s]}
        found, whole = self.index.objects(listed), {}
        for stage, path in paths.items():
            manifest = found.get(path)
            if is_whole(stage, manifest, tree[stage]):
                assert manifest is not None
                whole[stage] = manifest
        return [stage for stage in paths if stage not in whole], whole

    def read(self, stage_ids: Collection[str]) -> dict[str, dict[str, Any]]:
        """Return the manifests of stages, of those that have one; their files are not checked."""
        if self.files.is_local or len(stage_ids) < FEW:
            found = self.files.for_each(stage_ids, lambda stage: self.at(stage).manifest())
            return {s: m for s, m in zip(stage_ids, found, strict=True) if m is not None}
        tree = self.tree()
        paths = {f"{s}/{MANIFEST}": s for s in stage_ids if MANIFEST in tree.get(s, ())}
        read = self.index.objects({path: tree[s][MANIFEST] for path, s in paths.items()})
        return {paths[p]: m for p, m in read.items() if m is not None and fault_in(m) is None}

    def tree(self) -> dict[str, dict[str, Stamp]]:
        """Return the files of each stage by their paths below its folder, all in one listing."""
        start = len(self.files.join(FOLDER).strip("/")) + 1
        found: dict[str, dict[str, Stamp]] = {}
        for info in self.files.infos(FOLDER, recursive=True):
            stage, _, below = info.path.lstrip("/")[start:].partition("/")
            files = found.setdefault(stage, {})
            if below and info.type == fs.FileType.File:
                files[below] = stamp_of(info)
        return found

    def check(self, stage_id: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return the manifest and what is wrong; nothing is if the stage is not there (any more).

        Hashes only the files that are younger than the manifest.
        """
        stage = self.at(stage_id)
        manifest, why = stage.check(deep=False)
        if manifest is None:
            if stage.is_absent():
                return None, None
            # Another writer may have put the manifest there since.
            manifest, why = stage.check(deep=False)
        if manifest is not None and manifest.get("id") != stage_id:
            why = "the manifest of another stage"
        return manifest, why

    def set_aside(self, stage_ids: Iterable[str]) -> None:
        """Set aside those that are still damaged: another sweep may have computed them again."""
        for stage_id in stage_ids:
            _, why = self.check(stage_id)
            if why is not None:
                self.at(stage_id).set_aside(why)

    def drop_weights(self, stage_id: str) -> None:
        """Remove a stage's files and keep its metrics."""
        self.at(stage_id).drop()


def is_id(name: str) -> bool:
    """Return True unless a name below the folder of stages is that of a killed writer's folder."""
    return not name.startswith(".")


def is_whole(stage_id: str, manifest: dict[str, Any] | None, listed: Mapping[str, Stamp]) -> bool:
    """Return True if a manifest is that of a stage, and all its files are listed as it names them.

    A file that is younger than the manifest was changed, or is another upload's: its hash decides,
    which no listing tells.

    Args:
        stage_id: the stage.
        manifest: the JSON object in the file of the manifest.
        listed: the files of the stage by their paths below its folder.
    """
    if manifest is None or fault_in(manifest) is not None or manifest.get("id") != stage_id:
        return False
    at = f"{manifest['upload']}/" if "upload" in manifest else ""
    written = listed[MANIFEST][0]
    for name, entry in manifest["files"].items():
        time, size = listed.get(at + name, (written, None))
        if size != entry["size"] or time > written:
            return False
    return True
