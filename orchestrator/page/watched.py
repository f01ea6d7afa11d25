"""An out-dir as somebody looks at it: its rows while they appear, and how the sweep is doing.

Reads only, and only what is new, so that looking often costs little, also behind a URI.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from typing import Any

from pyarrow import fs

from core.checks import BadInputError, require
from orchestrator.page.contents import page_contents
from orchestrator.plan.stages import TASKS_KIND
from orchestrator.results.details import details_of
from orchestrator.results.gathering import gather, task_columns
from orchestrator.results.names import CellName
from orchestrator.results.numbers import clock
from orchestrator.results.published import Published, known_values
from orchestrator.results.record import FOLDER as RECORDS
from orchestrator.results.record import Record, labels_of
from orchestrator.results.schema import Row
from orchestrator.store.files import read_object
from orchestrator.store.store import MARKER, PULSES, Store

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 60.0
"""A sweep that has not been heard of for so long is not running."""
MAX_CELLS = 500
"""Most cells that are named one by one."""


class Watched:
    """One out-dir, looked at again and again; every method may be called from any thread."""

    def __init__(self, out_dir: str) -> None:
        """Finds the sweep.

        Raises:
            ValueError: there is none.
        """
        try:
            self.store = Store(out_dir)
            found = self.store.files.exists(MARKER)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise BadInputError(f"{out_dir}: cannot be read ({reason})") from None
        if not found:
            raise BadInputError(f"{out_dir}: no sweep there; name the --out-dir of one")
        self.name = out_dir
        self.lock = threading.Lock()
        self.stamps: dict[str, tuple[Any, ...]] = {}
        self.stored: dict[str, Row] = {}
        self.manifests: dict[str, dict[str, Any]] = {}
        self.record: Record | None = None
        self.record_stamp: tuple[Any, ...] | None = None
        self.published: list[Published] | None = None
        self.heard = Heard()
        self.version = uuid.uuid4().hex
        self.shown: tuple[str, dict[str, Any]] | None = None
        self.refresh()

    def refresh(self) -> str:
        """Reads what is new; returns a word that changes when rows or the grid have changed."""
        with self.lock:
            if self.read_record() | self.read_rows() | self.read_tasks():
                self.version = uuid.uuid4().hex
            return self.version

    def files(self, folder: str) -> dict[str, tuple[Any, ...]]:
        """Files of a folder by name, with what changes whenever one is replaced."""
        selector = fs.FileSelector(self.store.files.join(folder), allow_not_found=True)
        infos = self.store.files.filesystem.get_file_info(selector)
        return {i.base_name: (i.mtime_ns, i.size) for i in infos if i.base_name.endswith(".json")}

    def read_json(self, folder: str, name: str) -> dict[str, Any] | None:
        """A file's contents; None if it went away or is not whole yet."""
        try:
            return read_object(self.store.files.read_bytes(folder, name))
        except FileNotFoundError:
            return None

    def read_rows(self) -> bool:
        """Rows that appeared, changed or went away; whether there were any."""
        stamps = self.files("rows")
        changed = {name for name, stamp in stamps.items() if self.stamps.get(name) != stamp}
        gone = set(self.stamps) - set(stamps)
        for name in changed | gone:
            row = self.read_json("rows", name) if name in changed else None
            key = name.removesuffix(".json")
            self.stored.pop(key, None)
            if row is not None:
                self.stored[key] = row
        self.stamps = stamps
        return bool(changed or gone)

    def read_record(self) -> bool:
        """The newest sweep's record; whether it is another one than before."""
        stamps = self.files(RECORDS)
        if not stamps:
            return False
        newest = max(stamps, key=lambda name: stamps[name])
        if self.record_stamp == (newest, *stamps[newest]):
            return False
        record = self.read_json(RECORDS, newest)
        if record is not None:
            self.record, self.record_stamp = record, (newest, *stamps[newest])
            self.published = published_of(record)
        return record is not None

    def read_tasks(self) -> bool:
        """Results of zero-shot tasks that the newest sweep asks for; whether there are new ones."""
        wanted = (self.record or {}).get("config", {}).get("eval", {}).get("tasks")
        new = self.store.stages.ids() - self.manifests.keys() if wanted else ()
        kinds = {found["kind"] for found in map(self.manifest, new) if found is not None}
        return TASKS_KIND in kinds

    def rows(self) -> list[Row]:
        """All rows, those of the newest sweep's grid marked."""
        with self.lock:
            labels = labels_of(self.record) if self.record else {}
            # A copy: another thread may read further manifests meanwhile.
            return gather(self.stored, labels, task_columns(dict(self.manifests)))

    def contents(self) -> dict[str, Any]:
        """What the page shows of this out-dir, drawn anew only when rows have changed."""
        version = self.refresh()
        if self.shown is None or self.shown[0] != version:
            rows = self.rows()
            details = details_of(rows, self.manifest)
            self.shown = (
                version,
                page_contents(
                    rows,
                    details=details,
                    published=self.published,
                    provenance=self.provenance(),
                ),
            )
        return self.shown[1] | {"version": version}

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """A stage's manifest, read once it is there."""
        if stage not in self.manifests:
            found = self.store.stages.at(stage).manifest()
            if found is None:
                return None
            self.manifests[stage] = found
        return self.manifests[stage]

    def provenance(self) -> dict[str, object]:
        """What the settings panel shows besides the rows' own columns."""
        record = self.record or {}
        known: dict[str, object] = {"out-dir": self.name}
        if "command" in record:
            known = {"command to reproduce": record["command"], **known}
        return known

    # Progress -----------------------------------------------------------------------------------

    def progress(self) -> dict[str, Any]:
        """A line on how the sweep is doing, its unfinished cells, and whether it is running."""
        record = self.record or {}
        pulse = self.read_json(PULSES, f"{record.get('sweep_id')}.json") or {}
        alive = self.heard.is_alive(pulse)
        running = set(pulse.get("running", ())) if alive else set()
        states = self.states(running)
        counts = Counter(state for _, state, _ in states)
        told = [f"{counts[state]} {state}" for state in TOLD if counts[state]]
        done = f"{counts['done']} of {len(states)} cells done" if states else "no grid recorded"
        note = ", ".join([done, *told])
        if alive and pulse.get("seconds_left"):
            left = pulse["seconds_left"] - (time.time() - pulse["seen_at"])
            note += f", about {clock(max(left, 1.0))} left"
        elif counts["waiting"]:
            seen = pulse.get("seen_at")
            ago = f" since {clock(time.time() - seen)}" if seen and not alive else ""
            note += "" if alive else f". Not running{ago}: its command again goes on where it is"
        cells = [state for state in states if state[1] != "done"]
        return {"note": note + ".", "cells": cells[:MAX_CELLS], "running": alive}

    def states(self, running: set[str]) -> list[tuple[str, str, str]]:
        """Every cell of the grid: its name, its state and, where it failed, why."""
        found = []
        for cell in (self.record or {}).get("cells", ()):
            rows = [self.stored.get(key) for key in cell["rows"]]
            present = [row for row in rows if row is not None]
            bad = next((row for row in present if row["status"] != "done"), None)
            state, why = "waiting", ""
            if bad is not None:
                state, why = bad["status"].replace("_", " "), bad.get("error") or ""
            elif len(present) == len(rows):
                state = "done"
            elif cell["id"] in running:
                state = "running"
            found.append((CellName.of_row(cell).full, state, why))
        return sorted(found, key=lambda cell: ORDER.get(cell[1], 0))


def published_of(record: Record) -> list[Published] | None:
    """Values that a sweep was told to compare with; None for those shipped with the project.

    Its own table may be on another machine: that is said, and those shipped are taken.
    """
    path = record.get("config", {}).get("output", {}).get("published")
    try:
        return None if path is None else known_values(path)
    except ValueError as error:
        logger.warning("%s; only values shipped with the project are shown", error)
        return None


TOLD = ("failed", "not run", "stopped", "running", "waiting")
ORDER = {state: i for i, state in enumerate(("running", *TOLD[:3], "waiting", "done"))}


class Heard:
    """Whether a sweep is alive, also where its machine's clock and ours differ."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.when = 0.0

    def is_alive(self, pulse: dict[str, Any]) -> bool:
        """Whether the pulse is recent by its own time or has changed since the last look."""
        if not pulse or pulse["ended"]:
            return False
        now = time.monotonic()
        if self.last is not None and pulse["seen_at"] != self.last:
            self.when = now
        elif self.last is None:
            self.when = now - abs(time.time() - pulse["seen_at"])
        self.last = pulse["seen_at"]
        return now - self.when < SILENCE_SECONDS


def watch_all(out_dirs: tuple[str, ...]) -> list[Watched]:
    """All out-dirs of a command line."""
    require(bool(out_dirs), "out-dirs", "(empty)", "name at least one --out-dir of a sweep")
    for i, out_dir in enumerate(out_dirs):
        require(out_dir not in out_dirs[:i], "out-dirs", out_dir, "named twice")
    return [Watched(out_dir) for out_dir in out_dirs]
