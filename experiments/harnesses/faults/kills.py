"""Kill a process before its first file operation, its second, and so on to the last.

    python experiments/harnesses/faults/kills.py                 # every act of `acts.py`
    python experiments/harnesses/faults/kills.py --acts publish drop

After each kill a store must show what was there before the act or what is there after it, and no
damage. The act is done again; then the store is a week older and the next command tidies it. Now it
must show what a calm run shows, and hold no file more.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults.disk import HALF, Disk
from orchestrator.store.store import Store

OPERATIONS = {
    *("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.utime", "os.truncate"),
    *("os.symlink", "shutil.rmtree", "shutil.move", "shutil.copyfile"),
}
"""Audit events of Python that change files, beside `open`. A kill before a read changes nothing."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
WEEK_NS = 8 * 86_400 * 10**9


@dataclass(frozen=True)
class Act:
    """Something that is done to a store."""

    run: Callable[[Store], None]
    show: Callable[[Store], Any]
    """Returns what a reader sees. It must be the same before a killed act, or after it."""
    prepare: Callable[[Store], None] = lambda store: None
    steps: bool = False
    """True if readers may see more than two states, each of them whole."""
    mends: bool = False
    """True if the act begins with damage."""


def open_store(place: Path, is_remote: bool) -> Store:
    """Return the store of a place, on pyarrow's file system or as below a URI."""
    store = Store(str(place / "out"))
    store.files.filesystem = fs.PyFileSystem(Disk())
    store.files.is_local = not is_remote
    return store


def killed(act: Act, place: Path, is_remote: bool, number: int) -> bool:
    """Do an act in a process that is killed before an operation; return True if it was."""
    child = os.fork()
    if child == 0:
        try:
            store = open_store(place, is_remote)
            kill_before(number, str(place))
            act.run(store)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), f"the act failed by itself: {status}"
    return status != 0


def kill_before(number: int, place: str) -> None:
    """Kill this process before a file operation, counted from now on."""
    count = itertools.count(1)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            counts = str(path).startswith(place) and flags & WRITES
        else:
            counts = event in OPERATIONS
        if counts and next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def files_of(place: Path) -> list[str]:
    """Return the files of a place without what is random in their names.

    Those set aside are left out. So are claims: one of a dead process goes with the next claim.
    """
    files = (path for path in place.rglob("*") if path.is_file() and path.suffix != HALF)
    names = (str(path.relative_to(place)) for path in files)
    wanted = (name for name in names if not name.startswith(("out/set-aside/", "out/claims/")))
    return sorted(re.sub("[0-9a-f]{32}(?=/)", "UPLOAD", name) for name in wanted)


def tidy_later(place: Path, store: Store) -> None:
    """Tidy a store as the next command does, a week later."""
    moment = time.time_ns() - WEEK_NS
    for path in place.rglob("*"):
        os.utime(path, ns=(moment, moment))
    store.scratch.tidy()
    store.remove_leftovers(store.stages.manifests())


def try_all(act: Act, work: Path, is_remote: bool) -> int:
    """Kill an act before each of its operations; return their number."""
    calm = fresh(act, work / "calm", is_remote)
    before = act.show(open_store(calm, is_remote))
    store = open_store(calm, is_remote)
    act.run(store)
    after = act.show(store)
    tidy_later(calm, store)
    wanted = files_of(calm)
    for number in itertools.count(1):
        place = fresh(act, work / "killed", is_remote)
        if not killed(act, place, is_remote, number):
            return number - 1
        store = open_store(place, is_remote)
        seen, (_, damaged) = act.show(store), store.stages.inspect()
        assert act.steps or seen in (before, after), (number, seen)
        assert act.mends or not damaged, (number, damaged)
        act.run(store)
        assert act.show(store) == after, (number, act.show(store), after)
        tidy_later(place, store)
        assert act.show(store) == after, number
        assert files_of(place) == wanted, (number, {*files_of(place)} ^ {*wanted})
    raise AssertionError


def fresh(act: Act, place: Path, is_remote: bool) -> Path:
    """Return an empty place with a prepared store, and its folder for temporary files."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "tmp").mkdir(parents=True)
    tempfile.tempdir = str(place / "tmp")
    act.prepare(open_store(place, is_remote))
    return place


def run(names: list[str]) -> int:
    """Kill acts before each of their operations; print a line for each, return the kills."""
    from faults.acts import ACTS

    total = 0
    for name in names or [*ACTS]:
        for is_remote in (False, True):
            start = time.monotonic()
            with tempfile.TemporaryDirectory(dir="/dev/shm" if MEMORY else None) as work:
                kills = try_all(ACTS[name], Path(work), is_remote)
            where, seconds = "as below a URI" if is_remote else "local", time.monotonic() - start
            print(f"{name:<12} {where:<14} {kills:4} kills, {seconds:.1f} s", flush=True)
            total += kills
            tempfile.tempdir = None
    return total


MEMORY = os.path.isdir("/dev/shm")
"""True where files can lie in memory, which makes the many stores quick."""


def main() -> None:
    """Run the acts that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--acts", nargs="+", default=[])
    print(f"{run(parser.parse_args().acts)} kills; nothing half done, lost or left")


if __name__ == "__main__":
    main()
