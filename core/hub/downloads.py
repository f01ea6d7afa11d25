"""Commands that fill the cache of the hub's client, for work without a network.

`NotFetchedError` is raised if a model or a text is not in the cache and the hub does not give it. A
sweep names everything that is missing in one line.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from core.checks import BadInputError

RepoType = Literal["model", "dataset"]
CONVERSION = "refs/pr/N"
"""Revision where the hub's bot puts safetensors if a repository has only pickled weights."""
MODEL_FILES = ("*.json", "*.txt", "*.model", "model*.safetensors")
"""Config, tokenizer and weights of any model, without pickled weights."""
CONVERTED_FILES = ("model*.safetensors*",)


@dataclass(frozen=True)
class Download:
    """One command of the hub's client that fetches into its cache."""

    repo: str
    revision: str | None = None
    files: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    """Globs of the files to fetch, if their names are not certain."""
    kind: RepoType = "model"

    @property
    def command(self) -> str:
        """Return the command as typed into a shell."""
        words = ["hf", "download", self.repo, *self.files]
        words += ["--repo-type", self.kind] if self.kind != "model" else []
        words += ["--revision", self.revision] if self.revision else []
        for pattern in self.patterns:
            words += ["--include", pattern]
        return shlex.join(words)


class NotFetchedError(BadInputError):
    """A model or a text that is not in the cache, and that the hub does not give."""

    def __init__(self, flag: str, name: str, cause: str, downloads: Sequence[Download]):
        self.flag, self.value = flag, name
        self.name, self.cause, self.downloads = name, cause, tuple(downloads)
        super().__init__(what_to_fetch([self]))

    @classmethod
    def together(cls, missing: Sequence[NotFetchedError]) -> BadInputError:
        """Return one error for all of these."""
        return missing[0] if len(missing) == 1 else BadInputError(what_to_fetch(missing))


def model_downloads(repo: str, revision: str | None, pickled: bool) -> list[Download]:
    """Return the downloads after which `resolve_model` finds a model in the cache.

    Args:
        repo: the repository.
        revision: the revision that the user named, if any.
        pickled: True if the main branch is known to have only pickled weights.
    """
    found = [Download(repo, revision, patterns=MODEL_FILES)]
    if pickled and revision is None:
        found.append(Download(repo, CONVERSION, patterns=CONVERTED_FILES))
    return found


def what_to_fetch(missing: Sequence[NotFetchedError]) -> str:
    """Return one line: the missing names, the cause, and the commands that fetch them."""
    names: dict[str, list[str]] = {}
    for one in missing:
        names.setdefault(one.flag or "", []).append(one.name)
    flags = ", ".join(
        f"--{flag} {' '.join(given)}{' (no such directory)' * (flag == 'models')}"
        for flag, given in names.items()
    )
    downloads = merged(download for one in missing for download in one.downloads)
    commands = " && ".join(download.command for download in downloads)
    number = ""
    if any(download.revision == CONVERSION for download in downloads):
        number = (
            " (N: on the model's page of the hub, the number of SFconvertbot's pull request "
            "'Adding `safetensors` variant of this model'; main has pickled weights only)"
        )
    kinds = {download.kind for download in downloads}
    instead = ["a local directory"] * ("model" in kinds)
    instead += ["a copy of a text's file as NAME=FILE"] * ("dataset" in kinds)
    it = "it" if len(missing) == 1 else "them"
    return (
        f"{flags}: not in the hub's cache, and the hub does not give {it} ({missing[0].cause}); "
        f"fetch with a network: {commands}{number}; or give {' or '.join(instead)}"
    )


def merged(downloads: Iterable[Download]) -> list[Download]:
    """Return one command for each repository and revision, with all files of a dataset."""
    found: dict[tuple[str, str | None, str], Download] = {}
    for one in downloads:
        key = (one.repo, one.revision, one.kind)
        files = (*found[key].files, *one.files) if key in found else one.files
        found[key] = replace(one, files=tuple(dict.fromkeys(files)))
    return list(found.values())
