"""Model sources: a directory, hub name or `embedded`, and the exact identity of the model there.

Weights are safetensors only. To resolve a name downloads nothing but its commit; the directories
at the end of this file fetch what they need.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from core.checks import BadInputError, require
from core.hub.downloads import NotFetchedError, model_downloads
from core.hub.identity import (
    MovedError,
    cached_refs,
    cached_snapshot,
    first_line,
    hub_commit,
)
from core.models.checkpoint_files import json_object
from core.models.folder_kinds import refuse_folder, require_model_folder
from core.models.local_identity import former_identity, local_identity
from core.paths import local_path, look_up

EMBEDDED = "embedded"
EMBEDDED_DIR = Path(__file__).parents[1] / "assets" / "model"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = re.compile(r"tokenizer.*|vocab.*|merges\.txt|.*_tokens(_map)?\.json|.*\.model")


@dataclass(frozen=True)
class ModelSource:
    """Place and identity of a model."""

    name: str
    """Name as the user gave it."""
    path_or_repo: str
    """A local directory, or the repository on the hub."""
    revision: str | None
    """The hub commit; None for a local directory."""
    identity: str
    """The hub commit, or `sha256:` of all that the numbers of a local model depend on."""
    weights_revision: str | None = None
    """The hub commit with the safetensors weights, if it is another one than `revision`."""
    aliases: tuple[str, ...] = ()
    """Further identities of the same model, by which a store may know it."""


def resolve_model(
    name: str, revision: str | None = None, needs_weights: bool = True
) -> ModelSource:
    """Find a model by directory, hub name (`org/model` or `org/model@revision`) or `embedded`.

    Config and tokenizer are enough to plan: without `needs_weights` the weights may be absent.

    Raises:
        ValueError: in one line, if there is none or it has no safetensors weights.
    """
    repo, path = name, _directory(name)
    if path is None and revision is None:
        repo, _, revision = name.partition("@")
        path = _directory(repo)
    if path is not None:
        remedy = f"revision {revision} has no effect on a local directory; leave it out"
        require(not revision, "models", name, remedy)
        return local_source(name, path, needs_weights)
    remedy = f"no such directory{_near(repo)}; give a model directory, a hub name such as "
    remedy += f"facebook/opt-125m, or {EMBEDDED!r}"
    require(_is_hub_name(repo), "models", repr(name), remedy)
    return _hub_source(name, repo, revision or None, needs_weights)


def _directory(name: str) -> Path | None:
    """Return the local path of a model, None if there is nothing."""
    if name == EMBEDDED:
        return EMBEDDED_DIR
    path = local_path("models", name)
    return None if look_up("models", name, path) is None else Path(path)


def _is_hub_name(name: str) -> bool:
    """Return True if the hub's client takes the name for a repository's."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _near(name: str) -> str:
    """Return a hint with the directory that an absent one may be meant for, or nothing."""
    folder, last = os.path.split(local_path("models", name).rstrip("/" + os.sep))
    try:
        beside = [entry.name for entry in os.scandir(folder or ".") if entry.is_dir()]
    except OSError:
        return ""
    near = get_close_matches(last, beside, n=1)
    return f" (did you mean {os.path.join(folder, near[0])}?)" if near else ""


def local_source(name: str, path: Path, needs_weights: bool = True) -> ModelSource:
    """Return the source of a checkpoint directory; raise ValueError if a part of it is absent."""
    require(not path.is_file(), "models", name, "is a file; give the directory of the model")
    if not (path / "config.json").exists():
        refuse_folder(name, path, "has no config.json; give the directory of save_pretrained")
    json_object(name, path / "config.json")
    weights = weight_paths(path, name)
    if not weights:
        require_weights(name, path, needs_weights)
    require_model_folder(name, path)
    tokenizer = [file for file in path.iterdir() if TOKENIZER_FILES.fullmatch(file.name)]
    files = [*weights, *tokenizer]
    try:
        identity, former = local_identity(path, files), former_identity(path, files)
    except OSError as error:
        remedy = f"{error.filename} cannot be read ({error.strerror}); copy the model again"
        raise BadInputError(f"--models {name}: {remedy}") from error
    # The path is absolute, because workers run in a directory of their own.
    return ModelSource(name, str(path.absolute()), None, identity, aliases=(former,))


def is_stored(source: ModelSource) -> bool:
    """Return True if the weights of a model are on this machine."""
    if source.revision is None:
        return bool(weight_paths(Path(source.path_or_repo)))
    revision = source.weights_revision or source.revision
    return _cached_weights(source.path_or_repo, revision) is not None


def weight_paths(directory: Path, name: str | None = None) -> list[Path]:
    """Return the safetensors files of a checkpoint and their index; empty unless all are there.

    Raises:
        BadInputError: the index is broken; names the model, or else the directory.
    """
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    files = indexed_files(name or str(directory), directory)
    return files if all(file.is_file() for file in files) else []


def indexed_files(name: str, directory: Path) -> list[Path]:
    """Return the index of the weights of a checkpoint and the files that it names."""
    index = directory / WEIGHTS_INDEX
    if not index.exists():
        return []
    shards = json_object(name, index).get("weight_map")
    remedy = f"{WEIGHTS_INDEX} has no weight_map from weights to files; copy the model again"
    is_map = isinstance(shards, dict) and len(shards) > 0
    require(is_map, "models", name, remedy)
    assert isinstance(shards, dict)
    for shard in shards.values():
        remedy = f"{WEIGHTS_INDEX} names a file {shard!r}, which is no file of its folder"
        is_plain = isinstance(shard, str) and shard != "" and Path(shard).name == shard
        require(is_plain, "models", name, remedy)
    return [index, *(directory / shard for shard in sorted(set(shards.values())))]


def require_weights(name: str, path: Path, are_needed: bool) -> None:
    """Refuse a folder that has not all of its weights, or weights of another kind.

    A plan needs no weights: a folder without any will do, but not one of another kind.
    """
    if absent := [file.name for file in indexed_files(name, path) if not file.is_file()]:
        told = f"{absent[0]} is missing" + (f", and {len(absent) - 1} more" * (len(absent) > 1))
        remedy = f"has not all of its weights: {told}; copy the model again"
        require(not are_needed, "models", name, remedy)
        return
    is_sharded = any(path.glob("model-*-of-*.safetensors"))
    remedy = f"has shards of weights, but no {WEIGHTS_INDEX}; copy that file too"
    require(not is_sharded or not are_needed, "models", name, remedy)
    lacks = f"has no {WEIGHTS}; save the model with safetensors"
    refuse_folder(name, path, lacks if are_needed else None)


def _hub_source(name: str, repo: str, revision: str | None, needs_weights: bool) -> ModelSource:
    commit = None
    try:
        commit = hub_commit(repo, "config.json", revision, "model")
        require(commit is not None, "models", name, "has no config.json on the hub")
        snapshot = _cached_weights(repo, commit)
        if snapshot is None and revision is None:
            snapshot = _cached_conversion(repo)
        weights = snapshot.name if snapshot else _asked_weights(repo, commit)
        if weights is None and revision is None:
            weights = _asked_conversion(repo)
    except ConnectionError as error:
        if commit is not None and not needs_weights:
            return ModelSource(name, repo, commit, commit)
        if get_close_matches(name, [EMBEDDED]):
            remedy = f"no such directory; did you mean {EMBEDDED!r}? The hub says: {error}"
            raise BadInputError(f"--models {name}: {remedy}") from error
        if isinstance(error, MovedError):
            remedy = (
                f"no such directory{_near(repo)}, and the hub has no such model or revision "
                f"({error}); check the name, or log in with `hf auth login` where it is not open "
                "to all"
            )
            raise BadInputError(f"--models {name}: {remedy}") from error
        downloads = model_downloads(repo, revision, _is_pickled(repo))
        given = name if "@" in name or revision is None else f"{name}@{revision}"
        raise NotFetchedError("models", given + _near(repo), str(error), downloads) from error
    remedy = "has no safetensors weights, and pickled ones are not loaded; convert it first"
    require(weights is not None or not needs_weights, "models", name, remedy)
    assert commit is not None
    if weights in (None, commit):
        return ModelSource(name, repo, commit, commit)
    return ModelSource(name, repo, commit, f"{commit}+{weights}", weights)


def _cached_weights(repo: str, revision: str | None) -> Path | None:
    """Return the cached snapshot of a revision if all its safetensors are there."""
    for file in (WEIGHTS, WEIGHTS_INDEX):
        snapshot = cached_snapshot(repo, file, revision, "model")
        if snapshot is not None and weight_paths(snapshot):
            return snapshot
    return None


def _asked_weights(repo: str, revision: str | None) -> str | None:
    """Return the commit of a revision if the hub has safetensors there."""
    return hub_commit(repo, WEIGHTS, revision, "model") or hub_commit(
        repo, WEIGHTS_INDEX, revision, "model"
    )


def _is_pickled(repo: str) -> bool:
    """Return True if the main branch is known to have pickled weights only."""
    snapshot = cached_snapshot(repo, "config.json", None, "model")
    found = snapshot is not None and any(snapshot.glob("pytorch_model*.bin*"))
    return found or re.fullmatch(r"facebook/opt-[\d.]+[mb]", repo) is not None


def _cached_conversion(repo: str) -> Path | None:
    """Return the cached snapshot of the hub's safetensors conversion, if there is one."""
    notes = sorted(cached_refs(repo, "model").glob("refs/pr/*"))
    names = [f"refs/pr/{note.name}" for note in notes]
    return next(filter(None, (_cached_weights(repo, name) for name in names)), None)


def _asked_conversion(repo: str) -> str | None:
    """Return the commit of the hub's own safetensors conversion, which older models need.

    The main branch of models such as OPT has pickled weights only. The conversion is an open pull
    request by the hub's bot. `from_pretrained` looks for it too, but not for a pinned commit.
    """
    try:
        requests = HfApi().get_repo_discussions(
            repo, author="SFconvertbot", discussion_type="pull_request", discussion_status="open"
        )
        numbers = [pull.num for pull in requests if "safetensors" in pull.title]
    except Exception as error:
        raise ConnectionError(first_line(error)) from error
    return _asked_weights(repo, f"refs/pr/{numbers[0]}") if numbers else None


def config_dir(source: ModelSource) -> Path:
    """Return the local directory with the config, fetched if needed."""
    if source.revision is None:
        return Path(source.path_or_repo)
    file = hf_hub_download(source.path_or_repo, "config.json", revision=source.revision)
    return Path(file).parent


def tokenizer_dir(source: ModelSource) -> Path:
    """Return the local directory with the tokenizer and the config, fetched if needed."""
    directory = config_dir(source)
    names = {file.name for file in directory.iterdir()}
    whole = "tokenizer_config.json" in names and names & {"tokenizer.json", "vocab.json"}
    if source.revision is None or whole:
        # To ask the hub for files that a model may not have takes minutes without a network.
        return directory
    patterns = ["tokenizer*", "vocab*", "merges.txt", "*_tokens*.json", "*.model"]
    return Path(
        snapshot_download(source.path_or_repo, revision=source.revision, allow_patterns=patterns)
    )


def weights_dir(source: ModelSource) -> Path:
    """Return the local directory with the safetensors weights, fetched if needed."""
    if source.revision is None:
        return Path(source.path_or_repo)
    revision = source.weights_revision or source.revision
    snapshot = _cached_weights(source.path_or_repo, revision)
    if snapshot is not None:
        return snapshot
    # Not all safetensors files: some repositories hold the weights twice.
    patterns = ["model*.safetensors", WEIGHTS_INDEX, "generation_config.json"]
    return Path(snapshot_download(source.path_or_repo, revision=revision, allow_patterns=patterns))
