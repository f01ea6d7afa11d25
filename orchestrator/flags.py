"""Flags into settings: tyro reads dataclasses, and an error has one line."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterable
from typing import TypeVar

import tyro

from core.checks import BadInputError
from orchestrator.help import help_text

T = TypeVar("T")


def parse_flags(
    kind: type[T],
    arguments: list[str],
    default: T | None = None,
    description: str | None = None,
    first: Iterable[str] = (),
) -> T:
    """Read flags into a dataclass of settings; print the help and exit with 0 if that is asked for.

    Args:
        kind: the dataclass.
        arguments: words of the command line.
        default: instance that holds the defaults.
        description: text above the flags in the help.
        first: names of the flags that the help shows first.

    Raises:
        BadInputError: a refusal of one line, also for what tyro refuses.
    """
    if {"-h", "--help"} & set(arguments):
        print(help_text(kind, default, description, first), end="")
        sys.exit(0)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            found = tyro.cli(kind, args=arguments, default=default)
    except SystemExit as stop:
        if not stop.code:  # A shell's completion script was asked for.
            print(said.getvalue(), end="")
            raise
        raise BadInputError(one_line(said.getvalue())) from None
    assert isinstance(found, kind)
    return found


def one_line(box: str) -> str:
    """Return the message of tyro's framed error without frame, title and help text."""
    message: list[str] = []
    # The first line is the title, within the frame or without one.
    for line in [line for line in box.splitlines() if line.strip()][1:]:
        if re.search(r"─{3}|-{4}", line):
            if message:
                break
        else:
            message.append(line.strip("│| "))
    text = " ".join(message)
    return re.sub(r"^Error parsing [^:]+: (?=--)", "", text)
