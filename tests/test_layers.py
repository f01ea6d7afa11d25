"""Structure: core stands alone, refusals are told from faults, and flags are read in no time.

`make check` runs import-linter, which tests that dependencies point one way.
"""

import importlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ["schedule", "sequential", "finetune", "checkpoint"]
# The same tests run for all families and methods elsewhere.
SOME = "not llama and not opt-350m"

# A name that is None in sys.modules is not found, as if it were not installed.
SCRIPT = """
import importlib, pkgutil, sys
absent = ("ray", "plotly", "tyro", "orchestrator")
sys.modules.update(dict.fromkeys(absent))

import core
modules = [m.name for m in pkgutil.walk_packages(core.__path__, "core.")]
assert {"core.sequential", "core.pruners.sparsegpt", "core.texts.windows"} <= set(modules), modules
for name in modules:
    importlib.import_module(name)
print("imported", len(modules))

import pytest
failed = pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]])
assert not any(map(sys.modules.get, absent))
sys.exit(failed)
"""


@pytest.fixture(scope="module")
def core_alone() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, "-k", SOME, *(f"tests/test_{name}.py" for name in FILES)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_every_core_module_imports_without_ray_plotly_and_tyro(core_alone):
    assert "imported" in core_alone.stdout, core_alone.stderr


def test_core_tests_pass_without_them(core_alone):
    # Pruning, training and checkpoints of tiny models among them.
    assert core_alone.returncode == 0, core_alone.stdout + core_alone.stderr
    assert " passed" in core_alone.stdout


@pytest.mark.parametrize("package", ["core", "orchestrator"])
def test_refusals_are_told_apart_from_faults_of_ours(package):
    # The command line tells a BadInputError in one line; any other error keeps its traceback.
    files = (ROOT / package).rglob("*.py")
    assert [f.name for f in files if "raise ValueError(" in f.read_text(encoding="utf-8")] == []


# Reading flags ------------------------------------------------------------------------------------

SLOW = {"torch", "transformers", "ray", "datasets", "pyarrow", "plotly", "pandas", "numpy"}
SLOW |= {"huggingface_hub", "tokenizers", "safetensors"}
ENDING = """
import json, runpy, sys
code = 0
try:
    {start}
except SystemExit as stop:
    code = stop.code
print(json.dumps([code, sorted(sys.modules)]))
"""
COMMANDS = {
    "sweep": "runpy.run_path('experiments/sweep_opt.py', run_name='__main__')",
    "browse": "runpy.run_module('orchestrator.browse', run_name='__main__', alter_sys=True)",
}


def after(start: str, *flags: str) -> tuple[int, set[str]]:
    """Returns the exit code of a command and the modules that it has imported by its end."""
    done = subprocess.run(
        [sys.executable, "-c", ENDING.format(start=start), *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_slow(command):
    code, modules = after(COMMANDS[command], "--help")
    assert code == 0
    assert not modules & SLOW


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("sweep", ["--no-such-flag"]),
        ("sweep", ["--methods", "gradient"]),
        ("sweep", ["--regimes", "oneshot", "--finetune.lr", "0.1"]),
        ("browse", ["out", "--port", "99999"]),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_slow_is_imported(command, flags):
    code, modules = after(COMMANDS[command], *flags)
    assert code == 2
    assert not modules & SLOW


def test_settings_import_nothing_slow():
    _, modules = after("import core.config, core.methods, orchestrator.config")
    assert not modules & SLOW


def test_console_commands_exist():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"prune-sweep", "prune-browse"}
    for place in scripts.values():
        module, _, function = place.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
