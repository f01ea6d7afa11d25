"""core stands alone: it imports, and its tests pass, where Ray and Plotly cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = ["masks", "schedule", "hessian", "sequential", "finetune", "checkpoint"]

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
        [sys.executable, "-c", SCRIPT, *(f"tests/test_{name}.py" for name in FILES)],
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


def test_dependencies_point_one_way():
    pytest.importorskip("importlinter")
    script = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
