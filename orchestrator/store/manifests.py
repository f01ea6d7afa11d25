"""The manifest: a file that names every file of a stage or checkpoint.

It is written last. A reader that finds a manifest finds everything that it names.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

from orchestrator.store.files import read_object
from orchestrator.store.names import is_plain, is_safe

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
    found = read_object(data)
    return None if fault_in(found) else found


def fault_of(data: bytes) -> str | None:
    """Return why a file is no manifest, None if it is one."""
    return fault_in(read_object(data))


def fault_in(manifest: dict[str, Any] | None) -> str | None:
    """Return why a JSON object is no manifest, None if it is one.

    A manifest is data. It may name files of its own folder, and nothing else.
    """
    if manifest is None:
        return "its manifest is not a JSON object"
    files, upload, after = (manifest.get(name) for name in ("files", "upload", "after"))
    if not isinstance(files, dict):
        return "its manifest names no files"
    names = [*files, *([upload] if "upload" in manifest else [])]
    for name in names:
        if not is_safe(name) or name == MANIFEST:
            why = "leads out of the store, or no file can have this name"
            return f"its manifest names {name!r:.80}, which {why}"
    if "upload" in manifest and not is_plain(upload):
        return f"its manifest names {upload!r}, which is no folder of it"
    for name, entry in files.items():
        if not (isinstance(entry, dict) and {"size", "sha256"} <= entry.keys()):
            return f"its manifest gives {name} no size and hash"
    if after is not None and not (isinstance(after, dict) and str(after.get("step")).isdecimal()):
        return "its manifest adds to no checkpoint"
    return None


def is_complete(manifest: dict[str, Any] | None) -> bool:
    """Return True if a manifest exists and its weights, if it ever had any, were not dropped."""
    return manifest is not None and not manifest.get("dropped")
