"""Processes with equal host names that do not see each other, as in containers on one machine.

One holds a directory in a store's scratch. Others, in the same and in other PID namespaces, tidy
the store. The directory stays as long as its holder lives, and goes with it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HOLD = """
import sys
from orchestrator.store.store import Store
with Store(sys.argv[1]).scratch.directory() as directory:
    (directory / "model.safetensors").write_text("half")
    print(directory, flush=True)
    sys.stdin.read()
"""
TIDY = """
import sys
from orchestrator.store.store import Store
Store(sys.argv[1]).scratch.tidy()
"""
NAMESPACE = ["unshare", "-pf", "--kill-child"]
"""Begins a command in a PID namespace of its own, which still sees the outer /proc."""
CONTAINER = [*NAMESPACE, "--mount-proc"]
"""Begins a command in a namespace with a /proc of its own, as a container has."""
PLACES = {"outside": [], "namespace": NAMESPACE, "container": CONTAINER}


def are_allowed() -> bool:
    """Return True if this process may make namespaces."""
    try:
        return not subprocess.run([*CONTAINER, "true"], capture_output=True).returncode
    except FileNotFoundError:
        return False


def script(place: str, code: str, root: Path) -> list[str]:
    """Return the command of a script in a place, with a process id that is not the first one."""
    python = [sys.executable, "-c", code, str(root)]
    return [*PLACES[place], "sh", "-c", 'true & true & wait; "$@"; exit $?', "sh", *python]


def tidy(place: str, root: Path) -> None:
    """Tidy a store from a place."""
    subprocess.run(script(place, TIDY, root), check=True)


def try_place(holder: str, root: Path) -> int:
    """Hold scratch in a place while all others tidy; return the number of tidyings."""
    command = script(holder, HOLD, root)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None and process.stdin is not None
        held = Path(process.stdout.readline().strip())
        for place in PLACES:
            tidy(place, root)
            assert (held / "model.safetensors").exists(), f"{place} removed what {holder} writes"
        process.stdin.close()
        process.wait(60)
    assert not held.exists()
    return len(PLACES)


def run(root: Path) -> str:
    """Try every place; return a line that says what was done."""
    if not are_allowed():
        return "namespaces are not allowed here, so nothing was tried"
    count = sum(try_place(place, root) for place in PLACES)
    return f"{count} tidyings, no live scratch removed"
