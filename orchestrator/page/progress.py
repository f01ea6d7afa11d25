"""State of a sweep: its cells, the time left, and whether it is alive."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.results.names import CellName
from orchestrator.results.numbers import clock, format_perplexity
from orchestrator.results.schema import Row

Described = Mapping[str, Any]
"""A cell as a sweep's record describes it."""
SILENCE_SECONDS = 60.0
"""A sweep not heard from for this long counts as stopped."""
EVENTS = 5
"""Rows that are told as the last events."""
MAX_CELLS = 500
"""Most cells that are named one by one."""
TOLD = ("failed", "not run", "stopped", "running", "waiting")
ORDER = {state: i for i, state in enumerate(("running", *TOLD[:3], "waiting", "done"))}


def progress_of(
    cells: Iterable[Described], rows: Mapping[str, Row], pulse: Mapping[str, Any], alive: bool
) -> dict[str, Any]:
    """Return a line on how a sweep is doing, its trials, unfinished cells and last events.

    Args:
        cells: Cells of the sweep's record.
        rows: All rows of the store by key.
        pulse: The sweep's last sign of life, empty if there is none.
        alive: True if the sweep is running, from `Heard`.
    """
    cells = list(cells)
    states = states_of(cells, rows, pulse if alive else {})
    counts = Counter(state for _, state, _ in states)
    told = [f"{counts[state]} {state}" for state in TOLD if counts[state]]
    done = f"{counts['done']} of {len(states)} cells done" if states else "no grid recorded"
    note = ", ".join([done, *told])
    if alive and pulse.get("seconds_left"):
        left = pulse["seconds_left"] - (time.time() - pulse["seen_at"])
        note += f", about {clock(max(left, 1.0))} left"
    elif counts["waiting"] and not alive:
        ago = f" since {clock(time.time() - pulse['seen_at'])}" if pulse else ""
        note += f". Not running{ago}: its command again goes on where it is"
    unfinished = [state for state in states if state[1] != "done"]
    more = len(unfinished) - MAX_CELLS
    unfinished = unfinished[:MAX_CELLS]
    if more > 0:
        unfinished.append((f"and {more:,} more cells", "", ""))
    return {
        "note": note + ".",
        "trials": trials_of(cells, pulse) if alive else [],
        "cells": unfinished,
        "events": last_events(rows),
        "running": alive,
    }


def trials_of(cells: Iterable[Described], pulse: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each running trial: its name, its cells, how many are done, and the one it is at."""
    names = {cell["id"]: CellName.of_row(cell).short for cell in cells}
    return [
        {**trial, "now": names.get(trial["now"] or "", "")} for trial in pulse.get("trials", ())
    ]


def last_events(rows: Mapping[str, Row]) -> list[tuple[str, str, str]]:
    """Return the rows that were finished last: the cell, its state, and the time and result."""
    ended = sorted(rows.values(), key=lambda row: row.get("finished_at") or "", reverse=True)
    events = []
    for row in ended[:EVENTS]:
        value = row.get("perplexity")
        result = "" if value is None else f"perplexity {format_perplexity(value)}"
        when = (row.get("finished_at") or "")[11:16]
        told = " ".join(filter(None, (f"{when} UTC" if when else "", result, row.get("error"))))
        events.append((CellName.of_row(row).full, row["status"].replace("_", " "), told))
    return events


def states_of(
    cells: Iterable[Described], rows: Mapping[str, Row], pulse: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """Return every cell of the grid: its name, its state and, if it failed, the error."""
    running, attempt = set(pulse.get("running", ())), pulse.get("attempt")
    found = []
    for cell in cells:
        mine = [rows.get(key) for key in cell["rows"]]
        present = [row for row in mine if row is not None]
        bad = next((row for row in present if row["status"] != "done"), None)
        state, why = "waiting", ""
        # A failed cell is running again if the row is of an earlier attempt.
        over = bad is not None and bad.get("_attempt") == attempt
        complete = bad is None and len(present) == len(mine)
        if cell["id"] in running and not (over or complete):
            state = "running"
        elif bad is not None:
            state, why = bad["status"].replace("_", " "), bad.get("error") or ""
        elif complete:
            state = "done"
        found.append((CellName.of_row(cell).full, state, why))
    return sorted(found, key=lambda cell: ORDER.get(cell[1], 0))


class Heard:
    """Tells if a sweep is alive, also where its machine's clock and ours differ."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.when = 0.0

    def is_alive(self, pulse: Mapping[str, Any]) -> bool:
        """Return True if the pulse is recent by its own time or has changed since the last look."""
        if not pulse or pulse["ended"]:
            return False
        now = time.monotonic()
        if self.last is not None and pulse["seen_at"] != self.last:
            self.when = now
        elif self.last is None:
            self.when = now - abs(time.time() - pulse["seen_at"])
        self.last = pulse["seen_at"]
        return now - self.when < SILENCE_SECONDS
