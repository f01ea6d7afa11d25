"""Which content a name stands for: hub commits and hashes of local files, for models and texts.

A stage's hash covers the model and the texts it reads, so each needs an identity that changes
when its content does and not when it is moved. What the hub cache holds is used without asking
the hub: a sweep that is run again then finds its own stages, with or without a network.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from pathlib import Path
from typing import Literal

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

RepoType = Literal["model", "dataset"]
HUB_TIMEOUT_S = 10


@functools.cache
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, read once a process for each path, size and time."""
    stat = path.stat()
    return _sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


def files_hash(paths: list[Path]) -> str:
    """SHA-256 over the names and hashes of the files of one directory, in any order."""
    lines = sorted(f"{path.name} {file_hash(path)}" for path in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def cached_snapshot(repo: str, file: str, revision: str | None, kind: RepoType) -> Path | None:
    """The hub cache's snapshot that holds `file` of a repository; None if it was never fetched."""
    found = try_to_load_from_cache(repo, file, revision=revision, repo_type=kind)
    return Path(found).parents[len(Path(file).parts) - 1] if isinstance(found, str) else None


def cached_refs(repo: str, kind: RepoType) -> Path:
    """Where the hub cache notes which commits the names of revisions stand for."""
    return Path(constants.HF_HUB_CACHE, f"{kind}s--{repo.replace('/', '--')}", "refs")


def remember_commit(repo: str, revision: str | None, commit: str, kind: RepoType) -> None:
    """Notes the commit of a revision in the hub cache, as the hub's client does.

    Files are then fetched by commit, which leaves no note: without this a sweep that ran with a
    network would not find its models and texts by name without one.
    """
    if revision == commit:
        return
    note = cached_refs(repo, kind) / (revision or constants.DEFAULT_REVISION)
    with contextlib.suppress(OSError):  # A cache that is only read still serves.
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(commit)


class MovedError(ConnectionError):
    """The hub answers that there is no such repository or revision, or not for this user."""


def hub_commit(repo: str, file: str, revision: str | None, kind: RepoType) -> str | None:
    """The commit that a revision stands for, if it has `file`; None if it has not.

    Raises:
        MovedError: the hub does not know the repository or the revision.
        ConnectionError: the hub cannot be asked.
    """
    snapshot = cached_snapshot(repo, file, revision, kind)
    if snapshot is not None:
        return snapshot.name
    url = hf_hub_url(repo, file, revision=revision, repo_type=kind)
    try:
        commit = get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S).commit_hash
    except EntryNotFoundError:
        return None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise MovedError(first_line(error)) from error
    except Exception as error:
        # The client raises errors of its own, of its HTTP library and of Python, unrelated.
        raise ConnectionError(first_line(error)) from error
    if commit is not None:
        remember_commit(repo, revision, commit, kind)
    return commit


def first_line(error: Exception) -> str:
    """The first line of a message, which libraries follow with paragraphs of advice."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
