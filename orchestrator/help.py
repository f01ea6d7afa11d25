"""Help of the commands: every field of the settings as a flag, the most needed flags first.

tyro reads the flags, see `flags.py`. Its own help cannot mix flags of several groups, and it shows
`None` in most types and defaults.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

FIRST = "Flags that most people need"
NOTE = "--no-FLAG turns a flag without a value off, or --GROUP.no-FLAG. "
NOTE += "Spaces or commas separate values."


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag as the help shows it."""

    name: str
    """With dashes; a positional argument has none."""
    values: str
    """Kind of values, for example `INT ...`; empty for a switch."""
    default: Any
    text: str
    group: str
    """First line of the docstring of its settings."""

    def lines(self, width: int) -> list[str]:
        """Return the lines of help, at most `width` characters each."""
        default = self.default if isinstance(self.default, tuple) else (self.default,)
        shown = " ".join(str(v) for v in default if v is not None and v is not False)
        text = f"{self.text} [{shown}]" if shown else self.text
        indent = " " * 6
        lines = textwrap.wrap(
            text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )
        return [f"  {self.name} {self.values}".replace("   ", "  ").rstrip(), *lines]


def help_text(
    settings: type, default: Any, description: str | None, first: Iterable[str] = ()
) -> str:
    """Return the help of a command.

    Args:
        settings: dataclass whose fields are flags.
        default: instance that holds the defaults; None for those of the class.
        description: text about the command, printed as it is.
        first: names of the flags that most people need, without dashes.
    """
    width = min(shutil.get_terminal_size().columns, 100)
    groups: dict[str, list[Flag]] = {FIRST: []} if first else {}
    for flag in flags_of(settings, default):
        title = FIRST if flag.name.lstrip("-") in first else flag.group
        groups.setdefault(title, []).append(flag)
    positional = [f.values for flags in groups.values() for f in flags if not f.name]
    usage = " ".join(["usage:", Path(sys.argv[0]).name, *positional, "[FLAG [VALUE ...]] ..."])
    lines = [usage, "", (description or "").strip()]
    for title, flags in groups.items():
        lines += ["", *textwrap.wrap(title, width)]
        lines += [line for flag in flags for line in flag.lines(width)]
    return "\n".join([*lines, "", *textwrap.wrap(NOTE, width), ""])


def flags_of(settings: type, default: Any, prefix: str = "--") -> Iterator[Flag]:
    """Yield the flags of a dataclass in the order of its fields."""
    hints, texts = get_type_hints(settings, include_extras=True), field_texts(settings)
    group = (inspect.getdoc(settings) or "").partition("\n")[0]
    for field in dataclasses.fields(settings):
        kind = hints[field.name]
        is_annotated = get_origin(kind) is Annotated
        inner = get_args(kind)[0] if is_annotated else kind
        name = field.name.replace("_", "-")
        value = default_of(field) if default is None else getattr(default, field.name)
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            # The only annotation of a group is that its flags have no prefix.
            yield from flags_of(inner, value, prefix if is_annotated else f"{prefix}{name}.")
        elif is_annotated:
            words = f"{field.name.upper().removesuffix('S')} ..."
            yield Flag("", words, None, texts[field.name], group)
        else:
            yield Flag(prefix + name, values_of(kind), value, texts[field.name], group)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field, or None if it must be given."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


@functools.cache
def field_texts(settings: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass and of its parents, each one line."""
    texts: dict[str, str] = {}
    for parent in settings.__mro__[:-1]:  # The last is `object`.
        (tree,) = ast.parse(inspect.getsource(parent)).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                name, text = ast.unparse(field.target), ast.literal_eval(after.value)
                texts.setdefault(name, " ".join(text.split()))
    return texts


def values_of(kind: Any) -> str:
    """Return the kind of values that a flag takes: `INT`, `FLOAT ...`, `none|final|all`."""
    parts = [part for part in get_args(kind) if part is not NoneType]
    if kind is bool:
        return ""
    if get_origin(kind) is Literal:
        return "|".join(parts)
    if get_origin(kind) in (Union, UnionType):
        return values_of(parts[-1])
    if get_origin(kind) is tuple:
        return " ".join("..." if part is Ellipsis else values_of(part) for part in parts)
    return kind.__name__.upper()
