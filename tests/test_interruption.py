"""A stopped command: it ends with all that it has started, and says how to go on."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

COMMAND = """
import subprocess, sys, time
from orchestrator import interruption

interruption.GRACE_SECONDS = 0.5
with interruption.handled():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        # The signal may come as soon as this line is read.
        print(child.pid, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        {after}
"""
AT_ONCE = "interruption.leave()"
STUCK = "child.wait()"


@pytest.mark.parametrize("after", [AT_ONCE, STUCK])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_ends_all_processes_below_it(after, number):
    command = [sys.executable, "-c", COMMAND.format(after=after)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        child = psutil.Process(int(process.stdout.readline()))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said == "stopped; run the same command again to go on\n"
    assert has_ended(child)


def has_ended(process):
    """Within ten seconds; a machine may leave an orphan as a zombie."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False
