"""The texts that go by a short name: their files, parts, and which part each role reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["calibration", "finetune", "validation", "evaluation"]
Form = Literal["plain", "raw", "jsonl", "json", "parquet"]

FLAGS: dict[Role, str] = {
    "calibration": "calibration.text",
    "finetune": "finetune.text",
    "validation": "finetune.validation",
    "evaluation": "eval.texts",
}
"""The flag that a text of each role comes from, for messages."""
EMBEDDED_DIR = Path(__file__).parent / "assets" / "text"


@dataclass(frozen=True)
class Part:
    """One part of a named text."""

    file: str
    stream_rows: int | None = None
    """How many rows `joined` takes; all by default."""
    joiner: str = "\n\n"
    num_rows: int | None = None
    """Rows that the original has, for a file whose commit is not pinned."""


@dataclass(frozen=True)
class Named:
    """A text that goes by a short name: its parts, and which of them each role reads."""

    parts: dict[str, Part]
    roles: dict[Role, str]
    repos: tuple[str, ...] = ()
    """The dataset on the hub, then names it had before; none for the embedded text."""
    revision: str | None = None
    """The commit of `repos` that is read, or a ref where the hub makes commits of its own."""
    form: Form = "parquet"
    column: str = "text"


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
# C4's shards are 0.8 GB each: a stream of one takes its first rows, some ten million tokens. The
# evaluation rule is the SparseGPT code's (datautils.py): 1,100 documents, of whose tokens the
# paper uses the first 256 windows. PTB is read from the hub's own conversion, which it may make
# anew at any time: its rows are counted.
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
            name: Part(f"penn_treebank/{name}/0000.parquet", joiner=" ", num_rows=rows)
            for name, rows in (("train", 42_068), ("validation", 3_370), ("test", 3_761))
        },
        roles=SPLITS,
        column="sentence",
    ),
}
