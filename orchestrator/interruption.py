"""Ctrl-C and SIGTERM: a sweep ends within seconds and says how to go on.

Nothing needs saving then: the store holds all finished stages, and training its checkpoints.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

GRACE_SECONDS = 4.0
"""For Ray to end its processes; after that they are killed."""

received: list[int] = []
"""Signals so far."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
ending = threading.Lock()
"""Taken for good by the thread that ends the process."""


@contextmanager
def handled() -> Iterator[None]:
    """Within, SIGTERM raises KeyboardInterrupt as Ctrl-C does."""
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
    """Puts the handlers in place; again after whoever replaced them."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, interrupt)


def watch(told: socket.socket) -> None:
    """Sees to it that the process ends soon after a signal.

    A handler runs in the main thread, and not before that has come back from a library's call.
    """
    with told:
        while number := told.recv(1):
            if number[0] in SIGNALS:
                # Now, since what loses its parent on the way can no longer be told from others'.
                family = below(os.getpid())
                time.sleep(GRACE_SECONDS)
                leave(family, number[0])


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt once: another one would only interrupt what is ending already."""
    received.append(number)
    if len(received) == 1:
        raise KeyboardInterrupt


def leave(family: Iterable[int] | None = None, number: int = signal.SIGINT) -> NoReturn:
    """Says how to go on, ends whatever this process has started, and the process.

    At once, because the libraries' own end can take a quarter of a minute.

    Args:
        family: processes below this one, or below what has ended meanwhile.
        number: the signal, where no handler has run yet.
    """
    ending.acquire()
    sys.stdout.flush()
    print("stopped; run the same command again to go on", file=sys.stderr, flush=True)
    for pid in below(os.getpid()) if family is None else family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os._exit(128 + (received[0] if received else number))


def below(root: int) -> list[int]:
    """Ids of all descendants of a process, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found[1:]


def title_of(pid: int) -> str:
    """What a process calls itself; empty for one that has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return ""
