"""The default training of the embedded model: it wins back, and harms neither a cell nor dense."""

from __future__ import annotations

import json

import pytest
import walked

from core.config import EvalConfig
from orchestrator.config import GridConfig, OutputConfig, SweepConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def test_no_cell_ends_above_its_start_and_the_control_stays(tmp_path):
    grid = GridConfig(methods=("magnitude",), regimes=("finetune",), sparsities=(0.1, 0.9))
    text = EvalConfig(texts=("embedded:validation",), max_windows=32)
    walked.walk(SweepConfig(grid=grid, eval=text, output=OutputConfig(str(tmp_path / "out"))))
    found = {
        (row["regime"], row["method"], row["sparsity"]): row
        for row in walked.rows_of(tmp_path / "out").values()
    }
    assert {row["status"] for row in found.values()} == {"done"}
    dense, control = found["dense", "dense", 0.0], found["finetune", "dense", 0.0]
    assert control["perplexity"] == pytest.approx(dense["perplexity"], rel=5e-3)
    (told,) = json.loads(control["finetune_rounds"])
    assert told["lr"] == control["finetune_lr"] == 0.0
    light, heavy = (found["finetune", "magnitude", sparsity] for sparsity in (0.1, 0.9))
    assert light["perplexity"] <= light["perplexity_before_finetune"]
    # Most of what so many weights take comes back, by the other objective.
    assert heavy["perplexity"] < heavy["perplexity_before_finetune"] / 5
    objectives = [json.loads(row["finetune_rounds"])[0]["objective"] for row in (light, heavy)]
    assert objectives == ["reconstruct", "distill"]
