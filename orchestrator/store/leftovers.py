"""Files that no manifest names: of killed uploads, and of drops that were killed half way.

They are found by listing. One is removed only if no process can be writing it: its manifest says
that it was dropped, or nothing was written there for a week by the store's own clock.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyarrow import fs

from orchestrator.store.checkpoints import FOLDER as CHECKPOINTS
from orchestrator.store.files import Files
from orchestrator.store.manifests import MANIFEST, is_complete
from orchestrator.store.names import UnsafeNameError
from orchestrator.store.published import Published
from orchestrator.store.scratch import ABANDONED_NS
from orchestrator.store.stages import FOLDER as STAGES

logger = logging.getLogger(__name__)

ASIDE = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""The name of a file that was to replace a table or a page, as `replace_file` writes it."""
Manifests = Mapping[str, dict[str, Any]]


@dataclass
class Leftover:
    """A folder below a published directory, or the files that lie directly in one."""

    published: Published
    below: str | None
    """The name of the folder; None for the files beside the manifest."""
    newest_ns: int = 0
    """The time when anything of it was last written."""
    sizes: dict[str, int] = field(default_factory=dict)
    """The size of each file in bytes, by its path below the root."""

    @property
    def is_of_stage(self) -> bool:
        """True for files of a stage, False for those of a checkpoint."""
        return self.published.folder == STAGES

    @property
    def id(self) -> str:
        """The stage that it belongs to. A checkpoint's folder may add a number to it."""
        if self.is_of_stage:
            return self.published.name
        return self.published.folder.removeprefix(f"{CHECKPOINTS}/").partition("-")[0]

    def is_named(self, manifest: dict[str, Any] | None) -> bool:
        """Return True if a manifest names the files, dropped or not.

        One of an earlier version names files beside it, and those in folders there.
        """
        if manifest is None or "upload" in manifest or self.below is None:
            return manifest is not None and manifest.get("upload") == self.below
        return any(name.startswith(f"{self.below}/") for name in manifest["files"])

    def is_needed(self, manifests: Manifests) -> bool:
        """Return True if a manifest that is known already names the files."""
        known = manifests.get(self.id)
        return self.is_of_stage and is_complete(known) and self.is_named(known)

    def is_rubbish(self, manifests: Manifests, now_ns: int) -> bool:
        """Return True if nobody needs the files and no process can be writing them.

        Args:
            manifests: those of whole stages, by id.
            now_ns: the time by the store's own clock.
        """
        is_old = now_ns - self.newest_ns > ABANDONED_NS
        if is_old and not self.is_of_stage and is_complete(manifests.get(self.id)):
            return True  # Its stage is stored, so nobody resumes it.
        manifest = self.published.manifest()
        if not self.is_named(manifest):
            return is_old
        return self.is_of_stage and not is_complete(manifest)

    def remove(self, files: Files) -> None:
        """Delete the files."""
        if self.below is not None:
            files.delete_folder(self.published.folder, self.published.name, self.below)
            return
        for path in self.sizes:
            files.delete(path)


def remove_leftovers(files: Files, manifests: Manifests) -> str | None:
    """Remove what killed processes left in a store; return a line about it, None if nothing was.

    Args:
        files: the files of the store.
        manifests: those of whole stages that are known, by id. Others are read where it matters.
    """
    removed: dict[str, int] = {}
    try:
        for size in remove_(files, manifests):
            removed |= size
    except UnsafeNameError as error:
        logger.warning("%s", error)
    except OSError as error:
        # Another process may remove a folder while it is listed. The next command tries again.
        logger.info("leftovers were not looked for to the end: %s", error)
    if not removed:
        return None
    size = sum(removed.values()) / 1e6
    return f"removed {len(removed)} files ({size:,.1f} MB) that killed sweeps left in the store"


def remove_(files: Files, manifests: Manifests) -> Iterator[dict[str, int]]:
    """Remove leftovers one by one; yield the sizes of each one's files in bytes, by path."""
    found = [*leftovers(files, STAGES, 2), *leftovers(files, CHECKPOINTS, 3)]
    found = [each for each in found if not each.is_needed(manifests)]
    asides = [info for info in files.infos() if ASIDE.fullmatch(info.base_name)]
    now = files.now_ns() if found or asides else 0
    for each in found:
        if each.is_rubbish(manifests, now):
            each.remove(files)
            yield each.sizes
    for info in asides:
        if now - (info.mtime_ns or 0) > ABANDONED_NS:
            files.delete(info.base_name)
            yield {info.base_name: info.size}


def leftovers(files: Files, top: str, depth: int) -> list[Leftover]:
    """Return all files below a folder of published directories, grouped by who wrote them.

    Args:
        files: the files of the store.
        top: the folder.
        depth: the number of parts in the path of a published directory.
    """
    groups: dict[tuple[str, ...], Leftover] = {}
    start = len(files.path.strip("/")) + 1
    for info in files.infos(top, recursive=True):
        path = info.path.lstrip("/")[start:]
        parts = path.split("/")
        is_file = info.type == fs.FileType.File
        if len(parts) <= depth or parts[depth:] == [MANIFEST]:
            continue
        below = None if is_file and len(parts) == depth + 1 else parts[depth]
        published = Published(files, "/".join(parts[: depth - 1]), parts[depth - 1])
        group = groups.setdefault((*parts[:depth], below or ""), Leftover(published, below))
        group.newest_ns = max(group.newest_ns, info.mtime_ns or 0)
        if is_file:
            group.sizes[path] = info.size
    return [*groups.values()]
