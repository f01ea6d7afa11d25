"""Room for a worker group: waiting for a place that others hold is no failure.

A group waits as long as it takes, with a line now and then. One that the cluster can never hold, as
far as nodes and autoscaler tell, is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

CHECK_SECONDS = 10.0
"""Time between two looks at the cluster."""
RETURN_SECONDS = 30.0
"""A lost node may be back after this time, as one that was only restarted."""
FIRST_LINE_SECONDS, LONGEST_GAP_SECONDS = 60.0, 1800.0
"""Time until the first line is told, and the longest time between two; gaps double."""
WAITING = "waiting"
"""Key of a trial's report that it waits, for room or after a failure, with the line to tell."""


class NoRoomError(Exception):
    """The cluster can never hold a worker group."""


def wait_for_room(
    ready: Callable[[float], bool],
    why_never: Callable[[], str | None],
    tell: Callable[[float], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until there is room.

    Args:
        ready: `ready(seconds)` waits so long at most; True once there is room.
        why_never: the reason why there can never be room; None if there may be.
        tell: called now and then with the minutes that have gone by.
        clock: seconds.

    Raises:
        NoRoomError: there can never be room.
    """
    start = clock()
    gap, next_line = FIRST_LINE_SECONDS, start + FIRST_LINE_SECONDS
    hopeless_since = None
    while not ready(CHECK_SECONDS):
        now, why = clock(), why_never()
        if why is None:
            hopeless_since = None
        elif hopeless_since is None:
            hopeless_since = now
        elif now - hopeless_since >= RETURN_SECONDS:
            raise NoRoomError(why)
        if now >= next_line:
            tell((now - start) / 60)
            gap = min(2 * gap, LONGEST_GAP_SECONDS)
            next_line = now + gap
