"""Claims: which stages other sweeps on this store compute now, so that nobody computes them twice.

Claims are advice. A stage is published whole or not at all, whoever computes it, so a claim that is
lost or wrong costs time and no result. Where claims cannot be written, every stage counts as free.

A claim is a small file `claims/STAGE.OWNER`. Object stores cannot write a file only if there is
none, so a process first writes its claim and then lists all. Of two that write at a time at least
one sees the other. Who sees nobody has the stage. Who sees a lower name takes its own claim back.
The lowest lists again: the others go, or one of them stays because it saw nobody and has the stage.

The owner writes its claim again now and then. A claim that was not written for `LEASE_SECONDS`, or
whose process has ended on this machine, has lapsed and is removed by whoever finds it. Ages are
differences between times that the store gave to files: no machine's clock counts.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from orchestrator.store.files import Files, read_object
from orchestrator.store.owners import is_alive, owned_name

FOLDER = "claims"
LEASE_SECONDS = 60.0
"""Age at which a claim has lapsed."""
RENEW_SECONDS = 15.0
"""Time between two writes of a claim that is held."""
LOOKS, LOOK_SECONDS = 5, 0.05
"""Times that the lowest of several claims lists again, and the pause before each."""

logger = logging.getLogger(__name__)


@dataclass
class Sighting:
    """A claim of somebody else, as it was seen last."""

    name: str
    written: int
    """Nanoseconds of the store's clock."""
    lapses_at: float
    """Seconds of `time.monotonic` at which it has lapsed, unless it is written again."""


class Claims:
    """The claims of one process, which holds one stage at a time."""

    def __init__(self, files: Files, group: str = "") -> None:
        """Claim nothing yet; `group` names those who are certain to work one after another."""
        self.files = files
        self.owner = owned_name()
        known = {"host": socket.gethostname(), "pid": os.getpid(), "group": group}
        self.data = json.dumps(known).encode()
        self.works = True
        """False once the store has refused a claim: then all stages count as free."""
        self.held: str | None = None
        """Name of the claim that is held and written again and again."""
        self.others: dict[str, Sighting] = {}
        """For each stage that was not free the claim that it is held by."""
        self.lock = threading.Lock()
        self.closed = threading.Event()
        self.renewing: threading.Thread | None = None

    def take(self, stage_id: str) -> str | None:
        """Claim a stage; return None if it is ours now, else in words who holds it."""
        if not self.works:
            return None
        try:
            other = self._known_holder(stage_id) or self._contend(stage_id)
            return None if other is None else self._described(other)
        except OSError as error:
            logger.warning("stages cannot be claimed, and may be computed twice: %s", error)
            self.works = False
            self.release()
            return None

    def release(self) -> None:
        """Give up the claim that is held, if any."""
        with self.lock:
            name, self.held = self.held, None
        if name is not None:
            self._remove(name)

    def close(self) -> None:
        """Give up the claim that is held, and claim no more."""
        self.closed.set()
        self.release()

    def _known_holder(self, stage_id: str) -> Sighting | None:
        """Return the claim that held a stage at the last look, if it still does."""
        known = self.others.pop(stage_id, None)
        written = None if known is None else self._times().get(known.name)
        if known is None or written is None:
            return None
        now = time.monotonic()
        if written != known.written:
            known = Sighting(known.name, written, now + LEASE_SECONDS)
        if now > known.lapses_at or is_alive(owner_of(known.name)) is False:
            self._remove(known.name)
            return None
        self.others[stage_id] = known
        return known

    def _contend(self, stage_id: str) -> Sighting | None:
        """Write a claim; keep it if the stage is free, else return the one that holds it."""
        name = f"{stage_id}.{self.owner}"
        with self.lock:
            self.held = name
            self.files.write_note(self.data, FOLDER, name)
        other = self._lowest_other(name)
        for _ in range(LOOKS):
            if other is None or other.name < name:
                break
            time.sleep(LOOK_SECONDS)
            other = self._lowest_other(name)
        if other is None:
            self._renew_until_closed()
            return None
        self.release()
        self.others[stage_id] = other
        return other

    def _lowest_other(self, mine: str) -> Sighting | None:
        """Return the lowest live claim of others on our stage; remove all that have lapsed."""
        times = self._times()
        # Our claim was written just now, so its time is the store's.
        now, found = times.pop(mine, None), []
        for name, written in times.items():
            age = 0.0 if now is None else max(0.0, (now - written) / 1e9)
            if age > LEASE_SECONDS or is_alive(owner_of(name)) is False:
                self._remove(name)
            elif stage_of(name) == stage_of(mine):
                found.append(Sighting(name, written, time.monotonic() + LEASE_SECONDS - age))
        return min(found, key=lambda each: each.name, default=None)

    def _times(self) -> dict[str, int]:
        """Return when each claim was written last, in nanoseconds of the store's clock."""
        return {info.base_name: info.mtime_ns or 0 for info in self.files.infos(FOLDER)}

    def _remove(self, name: str) -> None:
        """Remove a claim; if that fails it lapses."""
        with suppress(OSError):
            self.files.delete(FOLDER, name)

    def _described(self, other: Sighting) -> str:
        """Return the owner of a claim in words."""
        found = read_claim(self.files, other.name)
        return f"process {found.get('pid', '?')} on {found.get('host', 'another machine')}"

    def _renew_until_closed(self) -> None:
        """Start the thread that writes the held claim again and again."""
        if self.renewing is None:
            self.renewing = threading.Thread(target=self._renew, daemon=True)
            self.renewing.start()

    def _renew(self) -> None:
        """Write the held claim every `RENEW_SECONDS`; a write that fails is tried next time."""
        while not self.closed.wait(RENEW_SECONDS):
            # Under the lock, so that no claim comes back once it is given up.
            with self.lock, suppress(OSError):
                if self.held is not None:
                    self.files.write_note(self.data, FOLDER, self.held)


def take_over(files: Files, group: str) -> set[str]:
    """Remove the claims of a group, whose processes have ended; return the stages it was at."""
    try:
        names = sorted(files.names(FOLDER))
        found = files.for_each(names, lambda name: read_claim(files, name))
        left = [name for name, data in zip(names, found) if group and data.get("group") == group]
        for name in left:
            files.delete(FOLDER, name)
    except OSError:
        return set()  # They lapse.
    return {*map(stage_of, left)}


def read_claim(files: Files, name: str) -> dict[str, Any]:
    """Return what a claim says of its owner; nothing if it is gone or half written."""
    data = files.try_read(FOLDER, name)
    return (None if data is None else read_object(data)) or {}


def stage_of(name: str) -> str:
    """Return the stage of a claim."""
    return name.partition(".")[0]


def owner_of(name: str) -> str:
    """Return the owner of a claim, as `owned_name` gave it."""
    return name.partition(".")[2]
