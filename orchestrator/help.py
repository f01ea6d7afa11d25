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
AXES = "axes"
"""Annotation of a setting, or of a group of them, whose flags take several values."""
EACH = "each-"
"""Start of the name that gives a flag of a list several lists; a plus joins the values of one."""


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
    is_axis: bool = False
    """True if each of several values makes cells of its own."""

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


def flags_of(
    settings: type, default: Any, prefix: str = "--", are_axes: bool = False
) -> Iterator[Flag]:
    """Yield the flags of a dataclass in the order of its fields.

    Args:
        settings: the dataclass.
        default: instance that holds the defaults; None for those of the class.
        prefix: start of the names of flags.
        are_axes: True if its flags take several values, one after another.
    """
    hints, texts = get_type_hints(settings, include_extras=True), field_texts(settings)
    group = (inspect.getdoc(settings) or "").partition("\n")[0]
    for field in dataclasses.fields(settings):
        kind = hints[field.name]
        is_annotated = get_origin(kind) is Annotated
        inner = get_args(kind)[0] if is_annotated else kind
        name = field.name.replace("_", "-")
        value = default_of(field) if default is None else getattr(default, field.name)
        marked = is_annotated and get_args(kind)[1] == AXES
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            # The other annotation of a group is that its flags have no prefix.
            start = prefix if is_annotated and not marked else f"{prefix}{name}."
            yield from flags_of(inner, value, start, marked)
        elif is_annotated and not marked:
            words = f"{field.name.upper().removesuffix('S')} ..."
            yield Flag("", words, None, texts[field.name], group)
        else:
            flag = Flag(prefix + name, values_of(inner), value, texts[field.name], group)
            yield from axis_flags(flag) if are_axes or marked else [flag]


def axis_flags(flag: Flag) -> list[Flag]:
    """Return a flag that takes several values; one of a list has a second flag for that."""
    if not flag.values.endswith("..."):
        values = f"{flag.values} ..." if flag.values else ""
        return [dataclasses.replace(flag, values=values, is_axis=True)]
    group, _, name = flag.name.rpartition(".")
    kind = flag.values.removesuffix(" ...")
    text = f"As --{group.strip('-')}.{name}, but each value makes cells of its own."
    text += f" A plus joins values to one list, such as {EXAMPLES[kind]}."
    each = Flag(f"{group}.{EACH}{name}", f"{kind}[+{kind}] ...", None, text, flag.group, True)
    return [flag, each]


EXAMPLES = {"FLOAT": "1e-4+3e-4", "STR": "k_proj+v_proj"}


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
