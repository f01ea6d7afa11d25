"""Three processes publish, drop and read the stages of one store: nothing is ever half there."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "experiments" / "harnesses" / "fault_processes.py"


def test_three_processes_share_a_store(tmp_path):
    command = [sys.executable, SCRIPT, "--seconds", "3", "--store", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " published" in done.stdout and " read" in done.stdout and " dropped" in done.stdout
