"""What Ray tells every driver of nodes and processes, in a line each instead of pages.

A node that is lost, as spot machines are, is no failure of a sweep, but Ray 2.60 prints forty lines
of its internals for it, some of them once for each process of the node.
"""

from __future__ import annotations

import re
import sys
from textwrap import shorten
from typing import Any

from ray._private import worker

WIDTH = 79
EXPECTED = re.compile(r"WARNING: \d+ PYTHON worker processes have been started on node")
"""Drivers of trials and what Ray starts for them; they wait, and take no core."""
NODE = re.compile(r"with node id: \S+ and address: (\S+) and node name: \S+")
"""How Ray names a node, in more than a line."""


class Teller:
    """Takes the place of Ray's own printing of messages; says nothing twice."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def __call__(self, data: dict[str, Any], ignore_prefix: bool = False) -> None:
        """Prints what has not been told, as `ray._private.worker.print_to_stdstream` is called."""
        for message in data["lines"]:
            line = line_of(message)
            if line is not None and line not in self.told:
                self.told.add(line)
                print(line, file=sys.stderr, flush=True)


def line_of(message: str) -> str | None:
    """A message in one line of a terminal; None for one that says nothing of use."""
    if not message.strip() or EXPECTED.match(message):
        return None
    named = NODE.sub(r"at \1", message)
    return shorten(f"Ray: {named}", WIDTH, placeholder=" ...")


def tell_in_lines() -> None:
    """From here on this process, which has joined Ray, is told so."""
    worker.print_to_stdstream = Teller()
