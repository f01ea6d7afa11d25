"""Ctrl-C and SIGTERM: a sweep ends within seconds and says how to go on.

Nothing needs saving then: the store holds all finished stages, and training its checkpoints.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from orchestrator.processes import below

GRACE_SECONDS = 4.0
"""For Ray to end its processes; after that they are killed."""

received: list[int] = []
"""Signals so far."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def handled() -> Iterator[None]:
    """Within, SIGTERM raises KeyboardInterrupt as Ctrl-C does."""
    before = [signal.getsignal(number) for number in SIGNALS]
    install()
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before):
            signal.signal(number, handler)


def install() -> None:
    """Puts the handlers in place; again after whoever replaced them."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, interrupt)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt once, and sees to it that the process then really ends."""
    received.append(number)
    if len(received) > 1:
        return  # It is ending already; another exception would only interrupt that.
    # Now, because what loses its parent on the way can no longer be told from others' processes.
    timer = threading.Timer(GRACE_SECONDS, leave, [below(os.getpid())])
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def leave(family: list[int]) -> None:
    """Ends this process, and those it started, where they could not be ended in order."""
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os._exit(say_goodbye())


def say_goodbye() -> int:
    """Says how to go on; returns the exit code."""
    print("stopped; run the same command again to go on", file=sys.stderr, flush=True)
    return 128 + (received[0] if received else signal.SIGINT)
