"""Runs each part in a process of its own, so that a crash or a hang is a row and not the end.

The process writes an event before and after each case. If it ends early, or if a case takes longer
than its limit, that case becomes a failed row, and a new process goes on with the next case.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from gpu_check.findings import Row, Status
from gpu_check.parts import Part

HARNESSES = Path(__file__).parents[1]
ROOTS = (HARNESSES, HARNESSES.parent / "benches", HARNESSES.parents[1])
"""Folders of the modules that a part imports: this package, the benches, the project."""
START = "(start)"
"""Case of a row about a process that ended before its first case."""
START_LIMIT = 60.0
"""Seconds until a process must have imported its part, on a GPU."""
TIME_OVER = "the time of the whole check was over"
MARK = "GPU_CHECK_PROCESS"
"""Variable by which a process's whole family is found, also after the death of its parents."""


@dataclass
class Settings:
    """Settings of all parts."""

    device: str
    sizes: str
    folder: Path
    """Folder for logs, events and the files of the parts."""
    deadline: float
    """Moment of the monotonic clock at which everything must have ended."""
    patience: float = 1.0
    """Factor of the limits of cases."""
    reference: Path | None = None
    threads: int | None = None
    """Threads of a process; None leaves the choice to torch."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set once somebody ends the check: running parts end at once, and no other begins."""

    @property
    def is_over(self) -> bool:
        """True if nothing more may begin."""
        return self.stop.is_set() or time.monotonic() >= self.deadline


@dataclass
class Progress:
    """State of a part over all its processes."""

    rows: list[Row] = field(default_factory=list)
    cases: list[str] | None = None
    """All cases; None until the first process has told them."""
    running: str | None = None
    since: float = 0.0
    """Moment of the last event."""

    def left(self) -> list[str]:
        """Return the cases without a row."""
        done = {row.case for row in self.rows}
        return [case for case in self.cases or [START] if case not in done]


def run_part(part: Part, settings: Settings) -> list[Row]:
    """Run the cases of a part; return one row for each."""
    progress = Progress()
    while progress.left():
        if settings.is_over:
            progress.rows += [
                Row(part.name, case, "not_run", 0.0, TIME_OVER) for case in progress.left()
            ]
            break
        before = len(progress.rows)
        reason = run_process(part, settings, progress)
        if progress.running is not None or len(progress.rows) == before:
            case, seconds = (
                progress.running or progress.left()[0],
                time.monotonic() - progress.since,
            )
            progress.rows.append(Row(part.name, case, "failed", seconds, reason))
        if progress.cases is None:
            break
    return progress.rows


def run_process(part: Part, settings: Settings, progress: Progress) -> str:
    """Run the cases that are left until the end or a limit; return why the process ended."""
    folder = settings.folder / part.name
    folder.mkdir(parents=True, exist_ok=True)
    events, log, given = (folder / name for name in ("events.jsonl", "log.txt", "settings.json"))
    events.write_text("")
    values = {
        "module": part.module,
        "device": settings.device,
        "sizes": settings.sizes,
        "folder": str(folder / "work"),
        "reference": str(settings.reference) if settings.reference else None,
        "events": str(events),
        "done": [row.case for row in progress.rows],
    }
    given.write_text(json.dumps(values))
    progress.running, progress.since = None, time.monotonic()
    mark = uuid.uuid4().hex
    with open(log, "a") as output, open(events) as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpu_check.case_process", str(given)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(settings) | {MARK: mark},
            start_new_session=True,  # Ctrl-C reaches the check alone, which ends the others.
        )
        try:
            code = watch(process, told, part, settings, progress)
        finally:
            end_family(mark)
            process.wait()
    if code is None:
        return f"no end within {time.monotonic() - progress.since:.0f} s"
    return f"its process ended with exit code {code}: {last_line(log)}"


def watch(
    process: subprocess.Popen[bytes],
    told: Any,
    part: Part,
    settings: Settings,
    progress: Progress,
) -> int | None:
    """Follow the events of a process; return its exit code, or None at a limit."""
    while True:
        code = process.poll()
        for event in read_events(told):
            take(event, part, progress)
        if code is not None:
            return code
        limit = (part.limit if progress.running else START_LIMIT) * settings.patience
        if settings.is_over or time.monotonic() > progress.since + limit:
            return None
        time.sleep(0.05)


def read_events(told: Any) -> list[dict[str, Any]]:
    """Return the events that were written since the last call; a half line stays for the next."""
    found = []
    while True:
        place = told.tell()
        line = told.readline()
        if not line.endswith("\n"):
            told.seek(place)
            return found
        found.append(json.loads(line))


def take(event: dict[str, Any], part: Part, progress: Progress) -> None:
    """Add an event to the state of a part."""
    progress.since = time.monotonic()
    if "cases" in event:
        progress.cases = event["cases"]
    progress.running = event.get("start")
    if "end" in event:
        status: Status = event["status"]
        figures = {**event["figures"], "broken": event["broken"]} if event["broken"] else None
        row = Row(
            part.name,
            event["end"],
            status,
            event["seconds"],
            event["text"],
            figures or event["figures"],
        )
        progress.rows.append(row)


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables of a part's process: no network, and the folders of its modules."""
    path = [*map(str, ROOTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
    found |= {"HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    found.setdefault("CUDA_VISIBLE_DEVICES", "0")  # The check is about one card.
    if settings.threads is not None:
        found["OMP_NUM_THREADS"] = str(settings.threads)
    return found


def end_family(mark: str) -> None:
    """Kill a process and all that it started, also what has outlived it, until none runs."""
    while family := [process for process in psutil.process_iter() if has_mark(process, mark)]:
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=1.0)


def has_mark(process: psutil.Process, mark: str) -> bool:
    """Return True if a process runs and has the variable of a family."""
    try:
        return process.environ().get(MARK) == mark
    except psutil.Error:  # It has ended, or is somebody else's.
        return False


def last_line(log: Path) -> str:
    """Return the last line that a process printed."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
