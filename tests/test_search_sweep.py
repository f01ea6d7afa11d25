"""One sweep through Ray with two axes and a search, and the same command again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from without_ray import without_ray

from orchestrator import cli
from orchestrator.config import SweepConfig
from orchestrator.results.board import boards_of
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.found import found_on
from orchestrator.results.parquet import read_rows

pytestmark = [pytest.mark.sweeps, pytest.mark.timeout(900)]
SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "sweep_opt.py"
FLAGS = ("--methods", "sparsegpt", "--regimes", "oneshot", "--sparsities", "0.6", "0.8")
FLAGS += ("--calibration.num-samples", "4", "8", "--prune.dampening-frac", "0.01", "0.1")
FLAGS += ("--calibration.seq-len", "64", "--eval.seq-len", "64", "--eval.max-windows", "2")
FLAGS += ("--within", "3", "--out-dir", "out")


def run(place):
    """Run the command; return what it printed."""
    known = {"HOME": str(place), "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    known |= {"PYTHONPATH": str(SCRIPT.parents[1])}
    environment = {name: v for name, v in os.environ.items() if name != "RAY_ADDRESS"} | known
    command = [sys.executable, str(SCRIPT), *FLAGS]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_four_curves_of_two_axes_are_searched_in_one_session_of_ray(tmp_path, monkeypatch, capsys):
    said = run(tmp_path)
    rows = [row for row in read_rows(str(tmp_path / "out" / "results.parquet"))]
    (board,) = boards_of(curves_from_rows(rows))
    found = found_on(board)
    assert len(found) == 4 and all(each.crossing.next is None for each in found)
    dense = board.dense_perplexity
    for each in found:
        crossing = each.crossing
        points = {point.sparsity: point.perplexity for point in each.line.points}
        assert crossing.high - crossing.low <= 0.01 + 1e-9
        assert points[crossing.low] <= 3 * dense < points[crossing.high]
    assert "the search asks for" in said and "highest sparsity within" in said
    without_ray(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweep_opt.py", *FLAGS])
    assert cli.main(SweepConfig(), "") == 0
    again = capsys.readouterr().out
    assert f"all {len(rows)} cells already done" in again
    assert again.splitlines()[-8:] == said.splitlines()[-8:]
