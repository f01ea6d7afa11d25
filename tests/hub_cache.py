"""The hub's cache as its client lays it out, for tests to fabricate."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def add_snapshot(hub: Path, repo: str, kind: str, ref: str, commit: str) -> Path:
    """A repository's folder for one commit, with a ref that leads to it."""
    base = hub / f"{kind}s--{repo.replace('/', '--')}"
    (base / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (base / "refs" / ref).write_text(commit)
    snapshot = base / "snapshots" / commit
    snapshot.mkdir(parents=True, exist_ok=True)
    return snapshot


def copy_into(snapshot: Path, source: Path, *patterns: str) -> None:
    """Files as the client stores them: links to blobs without a suffix."""
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir(exist_ok=True)
    for pattern in patterns:
        for file in source.glob(pattern):
            if file.is_file():
                blob = blobs / f"{snapshot.name[:4]}{len(list(blobs.iterdir()))}"
                shutil.copy(file, blob)
                (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
