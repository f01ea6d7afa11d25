"""Messages of Ray about nodes and processes, in one line each.

Losing a node, as happens with spot machines, is not a failure of a sweep. Ray 2.60 prints forty
lines of its internals for it, some of them once for each process of the node.
"""

from __future__ import annotations

import re
import sys
from textwrap import shorten
from typing import Any

from orchestrator.cluster.ray_internals import print_messages_with

WIDTH = 79
EXPECTED = re.compile(r"WARNING: \d+ PYTHON worker processes have been started on node")
"""The drivers of trials and the processes that Ray starts for them only wait, so the warning about
their number is of no use."""
NODE = re.compile(r"with node id: \S+ and address: (\S+) and node name: \S+")
"""Ray's name for a node, which takes more than a line."""


class Teller:
    """Prints each message of Ray once, in one line."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def __call__(self, data: dict[str, Any], ignore_prefix: bool = False) -> None:
        """Print new messages; Ray gives them in `data["lines"]`."""
        for message in data["lines"]:
            line = line_of(message)
            if line is not None and line not in self.told:
                self.told.add(line)
                print(line, file=sys.stderr, flush=True)


def line_of(message: str) -> str | None:
    """Return a message as one line for a terminal, or None if it says nothing of use."""
    if not message.strip() or EXPECTED.match(message):
        return None
    named = NODE.sub(r"at \1", message)
    return shorten(f"Ray: {named}", WIDTH, placeholder=" ...")


def tell_in_lines() -> None:
    """Print Ray's messages to this process, which has joined Ray, as single lines from now on."""
    print_messages_with(Teller())
