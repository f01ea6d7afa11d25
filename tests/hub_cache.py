"""The hub's cache as its client lays it out, for tests to fabricate."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

UNPIN_PTB = """
import dataclasses
from core.texts.named_texts import NAMED
parts = NAMED["ptb"].parts.items()
parts = {name: dataclasses.replace(part, rows_sha256=None) for name, part in parts}
NAMED["ptb"] = dataclasses.replace(NAMED["ptb"], parts=parts)
"""
"""PTB is known by its content, which no stand-in has: what a process runs before it reads one."""


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


def save_like_opt(snapshot: Path, source: Path) -> None:
    """The main branch of facebook/opt-125m: no safetensors and no tokenizer.json."""
    copy_into(snapshot, source, "config.json", "generation_config.json")
    bpe = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = "\n".join(" ".join(pair) for pair in bpe["merges"])
    settings = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "errors": "replace"}
    settings |= {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>"}
    settings |= {"pad_token": "<pad>", "add_prefix_space": False}
    special = {name: settings[f"{name}_token"] for name in ("bos", "eos", "unk", "pad")}
    for name, content in (
        ("vocab.json", json.dumps(bpe["vocab"])),
        ("merges.txt", f"#version: 0.2\n{merges}\n"),
        ("tokenizer_config.json", json.dumps(settings)),
        ("special_tokens_map.json", json.dumps({f"{k}_token": v for k, v in special.items()})),
        ("pytorch_model.bin", "pickle"),
        ("flax_model.msgpack", "flax"),
        ("tf_model.h5", "tf"),
    ):
        (snapshot / name).write_text(content, encoding="utf-8")
