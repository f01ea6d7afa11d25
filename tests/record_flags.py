"""Every flag of the two commands: its name, type, default and choices, without its help text.

    python tests/record_flags.py

writes tests/recorded/flags.json. Run it only when a flag is meant to change.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from orchestrator.browse import BrowseConfig
from orchestrator.config import SweepConfig

FILE = Path(__file__).resolve().parent / "recorded" / "flags.json"
COMMANDS: dict[str, type] = {"sweep": SweepConfig, "browse": BrowseConfig}


def type_text(kind: Any) -> str:
    """Return a type as a text that does not depend on the Python version."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_text(parts[0])
    if origin is Literal:
        return "choice"
    if origin in (Union, UnionType):
        return " | ".join(map(type_text, parts))
    if kind is Ellipsis:
        return "..."
    if kind is NoneType:
        return "None"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(type_text, parts))}]"
    return kind.__name__


def choices(kind: Any) -> list[str]:
    """Return the values of every Literal within a type."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [value for part in get_args(kind) for value in choices(part)]


def marks(kind: Any) -> list[Any]:
    """Return what is annotated to a type."""
    return list(get_args(kind)[1:]) if get_origin(kind) is Annotated else []


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field, or `REQUIRED`."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "REQUIRED" if field.default is dataclasses.MISSING else field.default


def flags_of(settings: type, prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return the flags of a dataclass of settings; a group's name is a prefix unless marked."""
    found: dict[str, dict[str, Any]] = {}
    hints = get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        kind, named = hints[field.name], marks(hints[field.name])
        inner = get_args(kind)[0] if named else kind
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(inner):
            assert isinstance(inner, type)
            bare = any(getattr(mark, "name", None) == "" for mark in named)
            found |= flags_of(inner, prefix if bare else f"{name}.")
            continue
        positional = any("positional" in repr(mark).lower() for mark in named)
        entry = {"type": type_text(kind), "default": default_of(field)}
        entry |= {"choices": choices(kind)} if choices(kind) else {}
        found[name if positional else f"--{name}"] = entry
    return found


def main() -> None:
    """Write the file."""
    flags = {command: flags_of(settings) for command, settings in COMMANDS.items()}
    FILE.write_text(json.dumps(flags, indent=1) + "\n", encoding="utf-8")
    print({command: len(each) for command, each in flags.items()})


if __name__ == "__main__":
    main()
