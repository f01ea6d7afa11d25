"""The time that the rest of a sweep takes, at the pace of its finished cells."""

from __future__ import annotations

import time
from collections.abc import Mapping


class TimeLeft:
    """Finished cells and their pace. It begins with the first one, because Ray starts before."""

    def __init__(self, costs: Mapping[str, float]) -> None:
        """Take the estimated seconds that each cell adds."""
        self.costs = costs
        self.seen: set[str] = set()
        self.start = time.monotonic()
        self.first: tuple[float, float] | None = None
        """Moment of the first finished cell, and its cost."""

    def finish(self, cell: str) -> None:
        """Note that a cell is finished."""
        self.seen.add(cell)
        if self.first is None:
            self.first = time.monotonic(), self.done()

    def done(self) -> float:
        """Return the estimated seconds of the finished cells."""
        return sum(self.costs.get(cell, 0.0) for cell in self.seen)

    def elapsed(self) -> float:
        """Return the seconds since the sweep began."""
        return time.monotonic() - self.start

    def seconds(self) -> float | None:
        """Return the seconds left; None before cells behind the first have taken some time."""
        since, before = self.first or (self.start, 0.0)
        done = self.done()
        if self.first is None or done <= before:
            return None
        pace = (time.monotonic() - since) / (done - before)
        return pace * (sum(self.costs.values()) - done)
