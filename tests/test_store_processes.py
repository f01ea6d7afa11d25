"""A store that several processes share, and one whose process is killed at every file operation."""

import subprocess
import sys
from pathlib import Path

FAULTS = Path(__file__).parents[1] / "experiments" / "harnesses" / "faults"


def said(script, *flags):
    command = [sys.executable, FAULTS / script, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_three_processes_share_a_store(tmp_path):
    told = said("processes.py", "--seconds", "2", "--store", tmp_path / "out")
    assert all(f" {word}" in told for word in ("published", "read", "dropped"))


def test_a_process_may_be_killed_before_any_file_operation():
    # The harness runs all acts, with whole walks.
    told = said("kills.py", "--acts", "publish", "evaluate", "drop", "drop older", "save")
    assert told.count("local") == 5 and "nothing half done, lost or left" in told
