"""A small sweep as a process of its own, and the processes below it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from orchestrator.results.parquet import read_rows
from orchestrator.store.store import Store

SCRIPT = Path(__file__).parents[1] / "sweep_opt.py"
SWEEP = (
    "--methods magnitude sparsegpt --regimes finetune iterative --sparsities 0.5 0.7 "
    "--calibration.num-samples 16 --calibration.seq-len 64 --finetune.tokens 16384 "
    "--finetune.seq-len 64 --eval.seq-len 64 --eval.max-windows 32 "
    "--cpus-per-worker 1 --checkpoint-seconds 0.1"
).split()
COMPARED = (
    *("model", "method", "regime", "sparsity", "round", "status", "perplexity", "nll"),
    *("perplexity_before_finetune", "dense_perplexity", "measured_sparsity", "num_finetune_tokens"),
)


def by_flag(words: Sequence[str]) -> dict[str, list[str]]:
    """Return the words of each flag, the flag among them."""
    found: dict[str, list[str]] = {}
    flag = ""
    for word in words:
        flag = word if word.startswith("--") else flag
        found.setdefault(flag, []).append(word)
    return found


def merged(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the words of a command in which each of `flags` replaces the same one before."""
    return [word for given in (by_flag(words) | by_flag(flags)).values() for word in given]


class Sweep:
    """One sweep command in a process group of its own."""

    def __init__(self, out: Path, *flags: str, **environment: str) -> None:
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *merged(SWEEP, flags), "--out-dir", str(out)],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )

    def end(self, *codes: int) -> str:
        """Wait for the end, check the exit code, return what was printed."""
        code = self.process.wait(600)
        self.log.seek(0)
        said = self.log.read()
        assert code in (codes or (0,)), f"exit code {code}\n{said}"
        return said

    def family(self) -> list[psutil.Process]:
        """Return all descendants of the command."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def wait_for(self, title: str) -> psutil.Process | None:
        """Return the first descendant with this title; None if the command ends before."""
        while self.process.poll() is None:
            for process in self.family():
                if title_of(process).startswith(title):
                    return process
            time.sleep(0.05)
        return None


def title_of(process: psutil.Process) -> str:
    """Return the title of a process; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def send(process: psutil.Process | None, number: int = signal.SIGKILL) -> int:
    """Send a signal; return 1 if there was a process to get it."""
    if process is None or not title_of(process):
        return 0
    process.send_signal(number)
    return 1


def gone(family: list[psutil.Process]) -> None:
    """Wait until none of some processes is left."""
    end = time.monotonic() + 60
    while left := [title for title in map(title_of, family) if title]:
        assert time.monotonic() < end, f"left over: {left}"
        time.sleep(0.1)


def rows_of(out: Path) -> dict[tuple, tuple]:
    """Return the compared columns of each row of the grid; no cell may be there twice."""
    rows = [row for row in read_rows(str(out / "results.parquet")) if row["in_current_grid"]]
    found = {(row["cell_id"], row["eval_text"]): tuple(map(row.get, COMPARED)) for row in rows}
    assert len(found) == len(rows), "a cell is there twice"
    return found


def check_files(out: Path) -> None:
    """Read and hash every stored file."""
    store = Store(str(out))
    for stage, manifest in store.stages.manifests().items():
        assert store.stages.at(stage).damage(manifest, deep=True) is None
