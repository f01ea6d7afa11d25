"""Files of `--grid`: a list of blocks of settings, or the record of a sweep.

A block is a mapping from names of flags to values. Groups may be nested or written with points, and
words may have dashes or underscores. Several values mean what they mean behind the flag. A file is
the list itself, or a mapping with the list under `blocks` and, beside it, what all blocks share.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.checks import BadInputError, require
from core.paths import local_path
from orchestrator.blocks import GROUPS
from orchestrator.config import GridConfig
from orchestrator.flag_words import off_name

BLOCKS = "blocks"
SHARED = ("eval.", "protocol", "dtype")
"""Settings that are the same in all blocks: perplexities are to be comparable."""
WORDS = {"": "None", "null": "None", "~": "None", "true": "True", "false": "False"}
"""Words of YAML for values that flags spell otherwise."""


def read_blocks(path: str) -> list[list[str]] | dict[str, Any]:
    """Return the words of each block of a file; of a record all that it holds.

    Raises:
        BadInputError: a file that cannot be read, or that is no list of blocks.
    """
    found = read_values(path)
    if isinstance(found, Mapping) and "sweep_id" in found and "config" in found:
        return dict(found)
    shared: dict[str, Any] = {}
    if isinstance(found, Mapping):
        shared = {name: value for name, value in found.items() if name != BLOCKS}
        found = found.get(BLOCKS, [{}])
    remedy = "is no list of blocks; see experiments/README.md for the form"
    is_list = isinstance(found, list) and found and all(isinstance(b, Mapping) for b in found)
    require(bool(is_list), "grid", path, remedy)
    assert isinstance(found, list)
    common = dict(named(shared))
    blocks = []
    for i, block in enumerate(found, start=1):
        own = dict(named(block))
        shared_by_all = next((name for name in own if name.startswith(SHARED)), None)
        remedy = f"all blocks share {shared_by_all}; give it beside the blocks"
        require(shared_by_all is None, "grid", path, remedy)
        twice = next((name for name in own if name in common), None)
        require(twice is None, "grid", path, f"block {i} gives {twice} again")
        blocks.append([w for name, value in (common | own).items() for w in words_of(name, value)])
        for name in common | own:
            require_allowed(path, name)
    return blocks


def read_values(path: str) -> Any:
    """Return the contents of a file; scalars of YAML stay text, since 2:4 is a number there."""
    import yaml

    place = Path(local_path("grid", path))
    try:
        text = place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"--grid {path}: cannot be read ({error})") from None
    try:
        if place.suffix == ".toml":
            return tomllib.loads(text)
        return json.loads(text) if place.suffix == ".json" else yaml.load(text, yaml.BaseLoader)
    except (ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise BadInputError(f"--grid {path}: is no YAML or TOML ({why})") from None


def named(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of a block under the names of their flags."""
    for name, value in block.items():
        full = f"{prefix}{name}".replace("_", "-").lstrip("-")
        if isinstance(value, Mapping):
            yield from named(value, f"{full}.")
        else:
            yield full, value


def require_allowed(path: str, name: str) -> None:
    """Refuse resources and places of results: they are the command line's."""
    group, point, _ = name.partition(".")
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(GridConfig)} - {"grid"}
    known = group in (*GROUPS, "eval") if point else name in fields
    require(known, "grid", path, f"{name} is no setting of a block; give it on the command line")


def words_of(name: str, value: Any) -> list[str]:
    """Return a setting as words of a command line."""
    values = value if isinstance(value, list) else [value]
    words = ["+".join(map(word, each)) if isinstance(each, list) else word(each) for each in values]
    if not isinstance(value, list) and words[0] in ("True", "False"):
        return [f"--{name}" if words[0] == "True" else off_name(f"--{name}")]
    return [f"--{name}", *words]


def word(value: Any) -> str:
    """Return one value as a word."""
    text = str(value)
    return WORDS.get(text.lower(), text)
