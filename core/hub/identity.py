"""Identities of models and texts: hub commits, and hashes of local files.

A stage's hash covers the model and the texts that it reads. So each needs an identity that changes
with its content, and not when it is moved. Content in the hub cache is used without a question to
the hub. So a sweep that runs again finds its own stages, with or without a network.

The hub's client takes half a second to import, so the functions that need it import it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from pathlib import Path

from core.hub.downloads import RepoType

HUB_TIMEOUT_S = 10
LFS_POINTER = b"version https://git-lfs"
"""Begin of the small file that git leaves in the place of a large one."""


@functools.cache
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; a process reads each path, size and time once."""
    stat = path.stat()
    return _sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


def files_hash(paths: list[Path]) -> str:
    """Return the SHA-256 over names and hashes of files in one directory, in any order."""
    lines = sorted(f"{path.name} {file_hash(path)}" for path in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def cached_snapshot(repo: str, file: str, revision: str | None, kind: RepoType) -> Path | None:
    """Return the hub cache's snapshot that holds `file`; None if it was never fetched."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision, repo_type=kind)
    return Path(found).parents[len(Path(file).parts) - 1] if isinstance(found, str) else None


def cached_refs(repo: str, kind: RepoType) -> Path:
    """Return the directory of the hub cache that notes the commit of each named revision."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, f"{kind}s--{repo.replace('/', '--')}", "refs")


def remember_commit(repo: str, revision: str | None, commit: str, kind: RepoType) -> None:
    """Note the commit of a revision in the hub cache, as the hub's client does.

    Files are then fetched by commit, and that leaves no note. Without this one, a sweep that ran
    with a network would not find its models and texts by name without a network.
    """
    from huggingface_hub import constants

    if revision == commit:
        return
    note = cached_refs(repo, kind) / (revision or constants.DEFAULT_REVISION)
    with contextlib.suppress(OSError):  # A cache that cannot be written still serves.
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(commit, encoding="utf-8")


class MovedError(ConnectionError):
    """Answer of the hub that a repository or revision is not there, or not for this user."""


def hub_commit(repo: str, file: str, revision: str | None, kind: RepoType) -> str | None:
    """Return the commit of a revision if it has `file`, else None.

    Raises:
        MovedError: the hub does not know the repository or the revision.
        ConnectionError: the hub does not answer.
    """
    snapshot = cached_snapshot(repo, file, revision, kind)
    if snapshot is not None:
        return snapshot.name
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo, file, revision=revision, repo_type=kind)
    try:
        commit = get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S).commit_hash
    except errors.EntryNotFoundError:
        return None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise MovedError(first_line(error)) from error
    except Exception as error:
        # The client raises unrelated errors: its own, its HTTP library's and Python's.
        raise ConnectionError(first_line(error)) from error
    if commit is not None:
        remember_commit(repo, revision, commit, kind)
    return commit


def first_line(error: Exception) -> str:
    """Return the first line of a message; libraries add paragraphs of advice."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
