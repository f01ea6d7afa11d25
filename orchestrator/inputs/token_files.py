"""The format of token files: one tensor in safetensors, with a version and a hash.

The hash covers the name of the file, the shape and all tokens. So a file that is cut off, changed
or in the place of another is found before any number follows from it.
"""

from __future__ import annotations

import hashlib
import json

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from orchestrator.failure import MISSING, DamagedTokensError
from orchestrator.store.store import Store

FOLDER, SUFFIX = "tokens", ".safetensors"
SEAL = "version and sha256"
"""Key in the header of a file."""
VERSION = "2"
"""Version of the format. Files of the first one have no version and no hash."""


def stored_names(store: Store) -> set[str]:
    """Return the names of all token files."""
    return {name.removesuffix(SUFFIX) for name in store.files.names(FOLDER)}


def write_tokens(store: Store, name: str, tokens: Tensor) -> None:
    """Write a token file, whole or not at all."""
    tokens = tokens.to(torch.int32).contiguous()
    # One entry: safetensors writes several in any order, and equal tokens make equal files.
    seal = {SEAL: f"{VERSION} {hash_of(name, tokens)}"}
    data = save_tensors({"tokens": tokens}, metadata=seal)
    store.files.write_bytes(data, FOLDER, name + SUFFIX)


def read_tokens(store: Store, name: str) -> Tensor:
    """Read a token file.

    Raises:
        DamagedTokensError: it is not there, or not as it was written.
    """
    data = store.files.try_read(FOLDER, name + SUFFIX)
    if data is None:
        raise DamagedTokensError(name, MISSING)
    try:
        version, _, digest = seal_of(data).partition(" ")
        tokens = load_tensors(data)["tokens"]
    except Exception as error:  # safetensors, torch and Python each have their own.
        raise DamagedTokensError(name, "not readable") from error
    if version != VERSION:
        raise DamagedTokensError(name, "of another version of this project, without a known hash")
    if digest != hash_of(name, tokens):
        raise DamagedTokensError(name, "changed since it was written")
    return tokens.long()


def has_tokens(store: Store, name: str) -> bool:
    """Return True if there is a token file of this name."""
    return store.files.exists(FOLDER, name + SUFFIX)


def note_failure(store: Store, name: str, attempt: str, line: str) -> None:
    """Write why a run of a sweep could not make a token file, for the workers that wait for it."""
    store.files.write_bytes(line.encode(), FOLDER, f"{name}.{attempt}.failed")


def noted_failure(store: Store, name: str, attempt: str) -> str | None:
    """Return why a run could not make a token file; None if nothing says so."""
    found = store.files.try_read(FOLDER, f"{name}.{attempt}.failed")
    return None if found is None else found.decode()


def seal_of(data: bytes) -> str:
    """Return version and hash in the header of a safetensors file; empty if it has none."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(SEAL, "")


def hash_of(name: str, tokens: Tensor) -> str:
    """Return the SHA-256 of a file's name, and of the dtype, the shape and the values of tokens."""
    head = f"{name} {tokens.dtype} {list(tokens.shape)}\n"
    digest = hashlib.sha256(head.encode())
    digest.update(tokens.numpy().tobytes())
    return digest.hexdigest()


def num_stored_tokens(store: Store, name: str) -> int:
    """Return the tokens of a file by its size: four bytes each behind a short header."""
    return (store.files.size(FOLDER, name + SUFFIX) or 0) // 4
