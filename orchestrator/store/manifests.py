"""The manifest: a file beside the files of a stage or checkpoint that names every one of them.

It is written last. A reader that finds a manifest finds everything that it names.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

from orchestrator.store.files import read_object

MANIFEST = "manifest.json"


def dated(manifest: dict[str, Any]) -> dict[str, Any]:
    """Add the time of publication: now."""
    now = datetime.datetime.now(datetime.UTC).isoformat()
    return {**manifest, "published_at": now}


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """Return the file of a manifest."""
    return json.dumps(manifest, indent=1).encode()


def read_manifest(data: bytes) -> dict[str, Any] | None:
    """Parse a manifest's file; None if it holds something else."""
    manifest = read_object(data)
    return manifest if manifest is not None and "files" in manifest else None


def is_complete(manifest: dict[str, Any] | None) -> bool:
    """Return True if a manifest exists and its weights, if it ever had any, were not dropped."""
    return manifest is not None and not manifest.get("dropped")
