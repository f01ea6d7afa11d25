"""Every part on a pretended GPU: no mixed devices, the CPU's numbers, few launches and waits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("count_launches.py")
BUDGETS = {
    "prune magnitude 0.5": (250, 23),
    "prune magnitude 2:4": (200, 23),
    "prune wanda 0.5": (600, 29),
    "prune wanda 2:4": (600, 29),
    "prune sparsegpt 0.5": (1650, 44),
    "prune sparsegpt 2:4": (5600, 44),
    "prune alps 0.5": (11450, 63),
    "prune alps 2:4": (14550, 63),
    "experts 0.5": (150, 1),
    "experts 2:4": (600, 1),
    "grow wanda": (1300, 65),
    "grow sparsegpt": (3350, 94),
    "grow alps": (11900, 77),
    "owl wanda": (1000, 48),
    "owl sparsegpt": (2050, 63),
    "4 bits": (15050, 58),
    "swaps sparsegpt": (10050, 64),
    "swaps wanda 2:4": (12850, 63),
    "train": (850, 19),
    "train resumed": (1450, 105),
    "train bias_norm": (700, 19),
    "train masklora": (1450, 19),
    "distill": (1150, 19),
    "reconstruct": (1750, 21),
    "reconstruct bf16": (2400, 21),
    "reconstruct masklora": (2350, 21),
    "elsa 0.5": (1450, 11),
    "elsa 2:4": (1200, 11),
    "evaluate": (400, 4),
    "evaluate bf16": (550, 4),
}
"""Most launches and waits of each part on the first block of the embedded model, 6 matrices."""


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """Figures of all parts, from another process: the pretended GPU changes its whole process."""
    file = tmp_path_factory.mktemp("launches") / "figures.json"
    command = [sys.executable, SCRIPT, "--blocks", "1", "--json", file, *BUDGETS]
    path = os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(file.read_text())


@pytest.mark.parametrize("part", BUDGETS)
def test_results_equal_the_cpus(figures, part):
    assert figures[part]["masks"] == 0
    assert figures[part]["others"] < 1e-6


@pytest.mark.parametrize("part", BUDGETS)
def test_launches_and_waits_stay_in_their_budget(figures, part):
    # A wait in each step, row or column breaks a budget. `count_launches.py --lines` names it.
    found = figures[part]["launches"], figures[part]["waits"]
    assert all(count <= most for count, most in zip(found, BUDGETS[part], strict=True)), found
