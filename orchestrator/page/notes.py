"""Notes that a reader puts beside a sweep, as `notes.md` in its out-dir."""

from __future__ import annotations

from orchestrator.store.store import Store

FILE = "notes.md"
MOST = 100_000
"""Most characters of notes that the page shows."""


def read_notes(store: Store) -> str:
    """Return the notes as text; empty if there are none."""
    data = store.files.try_read(FILE)
    return "" if data is None else data.decode("utf-8", errors="replace")[:MOST].strip()
