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
from orchestrator.flag_words import Choices, as_typed, checked_words
from orchestrator.help import flags_of, help_text

T = TypeVar("T")


def parse_flags(
    kind: type[T],
    arguments: list[str],
    default: T | None = None,
    description: str | None = None,
    first: Iterable[str] = (),
    choices: Choices | None = None,
) -> T:
    """Read flags into a dataclass of settings; print the help and exit with 0 if that is asked for.

    Args:
        kind: the dataclass.
        arguments: words of the command line.
        default: instance that holds the defaults.
        description: text above the flags in the help.
        first: names of the flags that the help shows first.
        choices: known values of flags whose type is any string, by name without dashes.

    Raises:
        BadInputError: a refusal of one line, also for what tyro refuses.
    """
    if {"-h", "--help"} & set(arguments):
        print(help_text(kind, default, description, first), end="")
        sys.exit(0)
    words = arguments
    if not any(word.startswith("--tyro-") for word in arguments):  # Those print completions.
        words = checked_words(arguments, flags_of(kind, default), choices)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            found = tyro.cli(kind, args=words, default=default)
    except BadInputError as error:
        raise BadInputError(as_typed(error, arguments)) from None
    except SystemExit as stop:
        if not stop.code:  # A shell's completion script was asked for.
            print(said.getvalue(), end="")
            raise
        error = refusal(stop) or BadInputError(one_line(said.getvalue()))
        raise BadInputError(as_typed(error, arguments)) from None
    assert isinstance(found, kind)
    return found


def refusal(stop: BaseException) -> BadInputError | None:
    """Return the refusal of the settings themselves behind tyro's exit.

    tyro breaks messages into lines, and a long path does not survive that.
    """
    cause: BaseException | None = stop
    while cause is not None and not isinstance(cause, BadInputError):
        cause = cause.__context__
    return cause


def one_line(box: str) -> str:
    """Return tyro's own message, without frame, title and help text."""
    message: list[str] = []
    # The first line is the title, within the frame or without one.
    for line in [line for line in box.splitlines() if line.strip()][1:]:
        if re.search(r"─{3}|-{4}", line):
            if message:
                break
        else:
            message.append(line.strip("│| "))
    return " ".join(message)
