"""Ctrl-C, Ctrl-Break and SIGTERM: a sweep ends within seconds and says how to go on.

Nothing needs saving at that moment: the store holds all finished stages and the checkpoints of
training.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import psutil

GRACE_SECONDS = 4.0
"""Time for Ray to end its processes; after that we kill them."""

received: list[int] = []
"""Numbers of the signals received so far."""
NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")
"""SIGBREAK is Ctrl-Break of Windows, and its only signal that reaches a group of processes."""
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
ending = threading.Lock()
"""The thread that ends the process takes this lock and never gives it back."""


@contextmanager
def handled() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt as Ctrl-C does while the body runs."""
    before = [signal.getsignal(number) for number in SIGNALS]
    install()
    told, tell = socket.socketpair()
    tell.setblocking(False)
    threading.Thread(target=watch, args=(told,), daemon=True).start()
    others = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(others)
        tell.close()
        for number, handler in zip(SIGNALS, before):
            signal.signal(number, handler)


def install() -> None:
    """Set our handlers, again if a library has replaced them; only the main thread can do so."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, interrupt)


def watch(told: socket.socket) -> None:
    """End the process soon after a signal.

    The handler alone is not enough: it runs in the main thread, which may be inside a library.
    """
    with told:
        while number := told.recv(1):
            if number[0] in SIGNALS:
                # List descendants now: an orphan gets a new parent and is then anybody's child.
                family = psutil.Process().children(recursive=True)
                time.sleep(GRACE_SECONDS)
                leave(family, number[0])


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt once: a second one would only interrupt the end of the process."""
    received.append(number)
    if len(received) == 1:
        raise KeyboardInterrupt


def leave(family: Iterable[psutil.Process] | None = None, number: int = signal.SIGINT) -> NoReturn:
    """Say how to go on, then kill all descendants of this process and end it.

    This does not wait for the libraries, whose own end can take a quarter of a minute.

    Args:
        family: descendants of this process, or of one that has ended; by default those of now.
        number: the signal, used if no handler has run yet.
    """
    ending.acquire()
    sys.stdout.flush()
    print("stopped; run the same command again to go on", file=sys.stderr, flush=True)
    for process in psutil.Process().children(recursive=True) if family is None else family:
        with suppress(psutil.Error):
            process.kill()
    os._exit(128 + (received[0] if received else number))
