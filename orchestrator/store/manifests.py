"""Manifests: what stands beside the files of a stage or checkpoint and names every one of them.

Written last, so that whoever finds one finds all that it names; store.py reads and writes them.
"""

from __future__ import annotations

import datetime
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from orchestrator.store.files import owned_name, read_object

MANIFEST = "manifest.json"


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """The file of a manifest that is published now."""
    now = datetime.datetime.now(datetime.UTC).isoformat()
    return json.dumps({**manifest, "published_at": now}, indent=1).encode()


def content(folder: str, name: str, manifest: dict[str, Any]) -> tuple[str, ...]:
    """Where the files are that a manifest names."""
    return (folder, name, manifest["upload"]) if "upload" in manifest else (folder, name)


def read_manifest(data: bytes) -> dict[str, Any] | None:
    """What a manifest's file says; None where it is something else."""
    manifest = read_object(data)
    return manifest if manifest is not None and "files" in manifest else None


def is_complete(manifest: dict[str, Any] | None) -> bool:
    """Whether all of a stage is there: a manifest, and its weights if it ever had any."""
    return manifest is not None and not manifest.get("dropped")


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
            if is_complete(read_manifest((final / MANIFEST).read_bytes())):
                return
        except OSError:
            pass
        # Weights dropped earlier and computed again, or leftovers without a manifest.
        old = aside.with_name(owned_name())
        try:
            os.rename(final, old)
        except FileNotFoundError:
            continue  # Another writer took them away first.
        shutil.rmtree(old, ignore_errors=True)
