"""Restarts of worker groups: how often at one place of the work, and after which pauses."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

LONGEST_PAUSE = 600.0
"""Seconds."""


@dataclass(frozen=True)
class Patience:
    """Limit and pauses of starting again for one kind of failure."""

    restarts: int
    """Times that a group is started again at one place."""
    first_pause: float = 0.0
    """Seconds before the first restart; each later pause is twice as long."""

    def pause(self, times: int) -> float:
        """Return the seconds to wait after so many failures at one place."""
        return min(LONGEST_PAUSE, self.first_pause * 2 ** (times - 1))


FAILURES = Patience(3)
NETWORK = Patience(6, 5.0)
LOST_NODES = Patience(5, 10.0)
SPOT = Patience(20, 10.0)
"""Losing a spot node is no failure, but a place where 20 of them go in a row is left."""


class Restarts:
    """The failures of a trial's worker groups since the work last came forward."""

    def __init__(self, trial_id: str) -> None:
        self.place: Any = None
        self.counts: Counter[Patience] = Counter()
        # Trials that lost the same node do not all come back at the same moment. So a cell that
        # kills its node does not take the others with it each time.
        self.spread = random.Random(trial_id)

    def note(self, patience: Patience, place: Any) -> int:
        """Count a failure at a place; return how many of its kind there were at it."""
        if place != self.place:
            self.forget()
        self.place = place
        self.counts[patience] += 1
        return self.counts[patience]

    def pause(self, patience: Patience) -> float:
        """Return the seconds until the group shall start again."""
        return patience.pause(self.counts[patience]) * self.spread.uniform(0.5, 1.5)

    def forget(self) -> None:
        """Begin to count anew, as after a cell that was given up."""
        self.place = None
        self.counts.clear()
