"""The terminal: output that nobody reads, or that it cannot show, ends no sweep.

`| head` closes the pipe after a few lines, a closed window takes the terminal away, and a terminal
may know ASCII only. None of these is a reason to lose hours of work.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any

IS_WINDOWS = sys.platform == "win32"


class Output(io.FileIO):
    """The file of a standard stream. Text that cannot be written is dropped."""

    def write(self, data: Any, /) -> int:
        """Write; wait for a slow reader, and do without one that has gone."""
        try:
            while (count := super().write(data)) is None:  # Full, and it does not wait by itself.
                select.select([], [self], [])
        except OSError:
            return len(data)
        return count


def use_any_terminal() -> None:
    """Let the standard streams of this process drop what nobody reads, and show any character.

    Letters that a stream does not know are written as escapes with a backslash. Streams that
    somebody has replaced, as tests do, stay.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # The shell has closed it: `>&-`.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif IS_WINDOWS and stream.isatty():
            # Only Python's own stream writes all letters to a console of Windows.
            stream.reconfigure(errors="backslashreplace")
        elif stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, shielded(stream))


def shielded(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream to the same file that neither a lost reader nor a letter stops."""
    stream.flush()
    made = io.TextIOWrapper(
        io.BufferedWriter(Output(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering or stream.write_through,
    )
    # Ray sends objects that hold sys.stdout to other processes, and looks at its mode.
    made.mode = stream.mode  # pyright: ignore
    return made
