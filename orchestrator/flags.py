"""Flags into settings: tyro's reading of dataclasses, with errors of one line."""

from __future__ import annotations

import contextlib
import io
import re
from typing import TypeVar

import tyro

from core.checks import BadInputError

T = TypeVar("T")


def parse_flags(
    kind: type[T], arguments: list[str], default: T | None = None, description: str | None = None
) -> T:
    """Reads flags into a dataclass of settings; help goes to the terminal.

    Raises:
        ValueError: one line, also for what tyro itself refuses.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            found = tyro.cli(kind, args=arguments, default=default, description=description)
    except SystemExit as stop:
        if not stop.code:
            print(said.getvalue(), end="")
            raise
        raise BadInputError(one_line(said.getvalue())) from None
    assert isinstance(found, kind)
    return found


def one_line(box: str) -> str:
    """The message of tyro's framed error, without frame, title and help text."""
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
