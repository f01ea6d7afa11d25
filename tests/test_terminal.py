"""Output that nobody reads, or that a terminal cannot show, ends no command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "import sys\nfrom orchestrator.terminal import use_any_terminal\nuse_any_terminal()\n"
LATER = "print('first', flush=True)\nsys.stdin.readline()\n"
LATER += "for _ in range(9): print('x' * 9999, flush=True)\nsys.exit(3)"


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return kept | {"PYTHONPATH": str(ROOT), **more}


def start(code, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()} | options
    command = [sys.executable, "-c", BEGIN + code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, **options)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_goes_on_when_its_reader_has_gone(unbuffered):
    done = start(LATER, env=environment(PYTHONUNBUFFERED=unbuffered))
    assert done.stdout.readline() == b"first\n"
    done.stdout.close()
    done.stdin.write(b"\n")
    done.stdin.close()
    assert (done.wait(60), done.stderr.read()) == (3, b"")
    done.stderr.close()


def test_errors_go_nowhere_when_their_reader_has_gone_too():
    code = LATER.replace("sys.exit", "import logging; logging.warning('lost')\nsys.exit")
    done = start(code, stderr=subprocess.STDOUT)
    assert done.stdout.readline() == b"first\n"
    done.stdout.close()
    done.stdin.write(b"\n")
    done.stdin.close()
    assert done.wait(60) == 3


@pytest.mark.parametrize("where", [">&-", ">&- 2>&-", "> /dev/full 2>&1"])
def test_a_stream_that_is_closed_or_full_is_none(where):
    code = "print('lost', flush=True); print('lost', file=sys.stderr); sys.exit(3)"
    shell = ["sh", "-c", f'"$0" -c "$1" {where}', sys.executable, BEGIN + code]
    assert subprocess.run(shell, env=environment(), timeout=60).returncode == 3


def test_a_slow_reader_of_a_pipe_that_does_not_wait_gets_everything():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    done = start("print('x' * 999_999)", stdout=writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"x" * 999_999 + b"\n"
    assert (done.communicate(timeout=60)[1], done.returncode) == (b"", 0)


def test_letters_that_a_terminal_does_not_know_are_escaped():
    done = start("print('ä ± \\udcff')", env=environment(PYTHONIOENCODING="ascii"))
    said, error = done.communicate(timeout=60)
    assert (said, error, done.returncode) == (b"\\xe4 \\xb1 \\udcff\n", b"", 0)


def test_an_object_that_holds_the_stream_can_be_sent_to_another_process():
    code = "from ray import cloudpickle as c\nassert c.loads(c.dumps(sys.stdout)) is sys.stdout"
    assert start(code).communicate(timeout=60) == (b"", b"")


@pytest.mark.parametrize("command", ["experiments/sweep_opt.py", "-m orchestrator.browse"])
def test_a_list_that_is_cut_off_ends_quietly(command):
    words = [sys.executable, *command.split(), "--help"]
    pipe = subprocess.PIPE
    done = subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=pipe, stderr=pipe)
    done.stdout.close()
    assert (done.wait(60), done.stderr.read()) == (0, b"")
    done.stderr.close()
