"""An out-dir while a sweep writes to it: its rows, its newest record and its manifests.

Nothing is written, and only new files are read, so that looking often costs little, also behind a
URI.
"""

from __future__ import annotations

import logging
import threading
import uuid
from typing import Any

from core.checks import BadInputError, require
from orchestrator.page.contents import COMMAND, OUT_DIR, SweepShown
from orchestrator.page.notes import read_notes
from orchestrator.page.progress import Heard, progress_of
from orchestrator.plan.kinds import Tasks, kind_of
from orchestrator.results.collection import refresh_results
from orchestrator.results.gathering import gather, task_columns
from orchestrator.results.published import Published, known_values
from orchestrator.results.record import FOLDER as RECORDS
from orchestrator.results.record import Record, asks_tasks, grid_columns, labels_of
from orchestrator.results.schema import Row
from orchestrator.store.files import read_object
from orchestrator.store.names import row_is_safe
from orchestrator.store.store import MARKER, PULSES, Store

logger = logging.getLogger(__name__)


class Watched:
    """One out-dir that is read again and again; every method may be called from any thread."""

    def __init__(self, out_dir: str) -> None:
        """Find the sweep.

        Raises:
            ValueError: There is none.
        """
        try:
            self.store = Store(out_dir)
            found = self.store.files.exists(MARKER)
        except (OSError, ValueError) as error:
            raise unreadable(out_dir, error) from None
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
        try:
            self.refresh()
        except OSError as error:
            raise unreadable(out_dir, error) from None

    def refresh(self) -> str:
        """Read what is new; return a word that changes when rows or the grid have changed."""
        with self.lock:
            if self.read_record() | self.read_rows() | self.read_tasks():
                self.version = uuid.uuid4().hex
            return self.version

    def read_json(self, folder: str, name: str) -> dict[str, Any] | None:
        """Read a file; return None if it went away or is not whole yet."""
        data = self.store.files.try_read(folder, name)
        return None if data is None else read_object(data)

    def read_rows(self) -> bool:
        """Read rows that appeared or changed; return True if any did or went away."""
        stamps = self.store.files.stamps("rows", ".json")
        changed = [name for name, stamp in stamps.items() if self.stamps.get(name) != stamp]
        gone = set(self.stamps) - set(stamps)
        found = self.store.rows.index.objects({name: stamps[name] for name in changed})
        for name in (*changed, *gone):
            row = found.get(name)
            key = name.removesuffix(".json")
            self.stored.pop(key, None)
            if row is not None and row_is_safe(row):
                self.stored[key] = row
        self.stamps = stamps
        return bool(changed or gone)

    def read_record(self) -> bool:
        """Read the newest sweep's record; return True if it is another one than before."""
        stamps = self.store.files.stamps(RECORDS, ".json")
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
        """Read results of zero-shot tasks, if the sweep has any; return True if some are new."""
        found = self.read_manifests() if asks_tasks(self.record or {}) else {}
        return any(kind_of(manifest) is Tasks for manifest in found.values())

    def read_manifests(self) -> dict[str, dict[str, Any]]:
        """Read the manifests of all stages that are new, many at a time; return them."""
        found = self.store.stages.read(self.store.stages.ids() - self.manifests.keys())
        self.manifests |= found
        return found

    def rows(self) -> list[Row]:
        """Return all rows, with those of the newest sweep's grid marked."""
        with self.lock:
            labels = labels_of(self.record) if self.record else {}
            axes = grid_columns(self.record) if self.record else {}
            # A copy, because another thread may read further manifests meanwhile.
            return gather(self.stored, labels, task_columns(dict(self.manifests)), axes)

    def part(self, name: str = "") -> SweepShown:
        """Return this out-dir as part of a page."""
        rows = self.rows()
        if not self.store.files.is_local:
            self.read_manifests()  # One by one they would take minutes.
        return SweepShown(
            rows,
            name,
            manifest=self.manifest,
            published=self.published,
            provenance=self.provenance(),
            notes=read_notes(self.store),
        )

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """Return a stage's manifest, None until it is there."""
        if stage not in self.manifests:
            found = self.store.stages.at(stage).manifest()
            if found is None:
                return None
            self.manifests[stage] = found
        return self.manifests[stage]

    def provenance(self) -> dict[str, object]:
        """Return what the settings panel shows besides columns of rows."""
        record = self.record or {}
        known: dict[str, object] = {OUT_DIR: self.name}
        if "command" in record:
            known = {COMMAND: record["command"], **known}
        return known

    def is_running(self) -> bool:
        """Return True if any sweep shows signs of life."""
        pulses = (self.read_json(PULSES, name) for name in self.store.files.names(PULSES))
        return any(Heard().is_alive(pulse) for pulse in pulses if pulse)

    def refresh_results(self) -> None:
        """Make `results.parquet` again if it is not made of the rows that are there."""
        try:
            refresh_results(self.store)
        except OSError as error:  # Somebody else's directory.
            reason = error.strerror or str(error)
            logger.warning("%s: results.parquet is older than the rows (%s)", self.name, reason)

    def progress(self) -> dict[str, Any]:
        """Return how the newest sweep is doing, from `progress.progress_of`."""
        pulse = self.read_json(PULSES, f"{(self.record or {}).get('sweep_id')}.json") or {}
        cells = (self.record or {}).get("cells", ())
        return progress_of(cells, self.stored, pulse, self.heard.is_alive(pulse))


def unreadable(out_dir: str, error: Exception) -> BadInputError:
    """Return the refusal of an out-dir that cannot be read."""
    return BadInputError(f"{out_dir}: cannot be read ({str(error).splitlines()[0]})")


def published_of(record: Record) -> list[Published] | None:
    """Return the values that a sweep compares with; None for those shipped with the project.

    The sweep's own table may be on another machine. Then a warning says so, and the shipped values
    are taken.
    """
    path = record.get("config", {}).get("output", {}).get("published")
    try:
        return None if path is None else known_values(path)
    except ValueError as error:
        logger.warning("%s; only values shipped with the project are shown", error)
        return None


def watch_all(out_dirs: tuple[str, ...]) -> list[Watched]:
    """Return all out-dirs of a command line, ready to read."""
    require(bool(out_dirs), "out-dirs", "(empty)", "name at least one --out-dir of a sweep")
    for i, out_dir in enumerate(out_dirs):
        require(out_dir not in out_dirs[:i], "out-dirs", out_dir, "named twice")
    return [Watched(out_dir) for out_dir in out_dirs]
