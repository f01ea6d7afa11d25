"""Names that tell which process made them, and the question if that process still runs.

A process id means something only within one PID namespace of one running machine. Containers on
one machine, or on several, often have equal host names and equal process ids.
"""

from __future__ import annotations

import functools
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
UNTOLD = "-"


@dataclass(frozen=True)
class Place:
    """The processes among which a process id is unique."""

    host: str
    boot: str
    """The boot id of the machine, or the second of its start where the system tells no id."""
    namespace: str
    """The number of the PID namespace; `-` where the system tells none."""

    @classmethod
    @functools.cache
    def current(cls) -> Place:
        """Return the place of this process."""
        try:
            boot = BOOT_ID.read_text(encoding="utf-8").strip()
        except OSError:
            boot = str(round(psutil.boot_time()))
        try:
            namespace = str(os.stat("/proc/self/ns/pid").st_ino)
        except OSError:
            namespace = UNTOLD
        return cls(socket.gethostname(), boot, namespace)


def owned_name() -> str:
    """Return a new name that tells the process that makes it."""
    place = Place.current()
    return ".".join((place.host, place.boot, place.namespace, str(os.getpid()), uuid.uuid4().hex))


def is_alive(name: str) -> bool | None:
    """Return True if the process that made a name runs, False if it has ended; None if unknown.

    It is unknown for processes of another place, and for a name of another form.
    """
    parts = name.rsplit(".", 4)
    if len(parts) < 5 or Place(*parts[:3]) != Place.current() or not parts[3].isdigit():
        return None
    return psutil.pid_exists(int(parts[3])) if sees_processes() else None


def sees_processes() -> bool:
    """Return True unless /proc is that of another PID namespace, where psutil finds others."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return True  # There is no /proc, so psutil asks the system itself.
