"""Stage, cell, row and token identities of many grids stay those of the recorded file.

Whoever changes one of them makes every stored sweep be computed again. The grids are in
identity_grids.py; record_identities.py writes the file that is compared with here.
"""

from __future__ import annotations

import itertools
import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.methods import METHODS, OPTION_VERSIONS
from orchestrator.plan.kinds import TRAINING_VERSIONS

HERE = Path(__file__).resolve().parent
MADE = runpy.run_path(str(HERE / "record_identities.py"))
GRIDS: dict[str, dict[str, Any]] = json.loads(
    (HERE / "recorded" / "identities.json").read_text(encoding="utf-8")
)


def differences(recorded: Any, found: Any, place: str) -> list[str]:
    """Return one line for each place where two descriptions differ."""
    if not (isinstance(recorded, dict) and isinstance(found, dict)):
        return [] if recorded == found else [f"{place}: {recorded!r} is now {found!r}"]
    lines = []
    for key in dict.fromkeys([*recorded, *found]):
        mine = f"{place} / {key}"
        if key not in found:
            lines.append(f"{mine}: gone")
        elif key not in recorded:
            lines.append(f"{mine}: new")
        else:
            lines += differences(recorded[key], found[key], mine)
    return lines


def test_every_recorded_grid_is_still_planned(tmp_path):
    assert list(MADE["descriptions"](tmp_path)) == list(GRIDS)


def described(name: str, folder: Path) -> dict[str, Any]:
    """Return the description of a grid in the form in which it is recorded."""
    return json.loads(json.dumps(MADE["compact"](MADE["descriptions"](folder)[name]())))


TRAINED_IN_BF16 = ("models-trained", "tasks-models")
"""Grids in which a model trains in bf16: `half`. They were recorded before these numbers changed on
purpose, when FSDP2's mixed precision replaced autocast."""


RECORDED_VERSIONS = {"alps": 3}
"""Versions of methods whose numbers changed on purpose after their grids were recorded."""
RECORDED_OPTIONS = {"refine": 2}
"""The same of options of pruning."""


@pytest.fixture
def recorded_versions(monkeypatch):
    """Methods have the versions that they had when identities were recorded."""
    for name, version in RECORDED_VERSIONS.items():
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], version=version))
    for name, version in RECORDED_OPTIONS.items():
        monkeypatch.setitem(OPTION_VERSIONS, name, version)


def test_a_raised_version_changes_the_cells_of_its_method_alone(tmp_path):
    name = "all-regimes"
    lines = differences(GRIDS[name], described(name, tmp_path), name)
    changed = {line.partition(":")[0].removeprefix(f"{name} / hashes of ") for line in lines}
    regimes = itertools.product(RECORDED_VERSIONS, ("oneshot", "finetune", "iterative"))
    # Stages have one hash for all methods.
    cells = {f"cells / tiny {method} {regime}" for method, regime in regimes}
    assert changed - {"stages / all"} == cells


@pytest.mark.usefixtures("recorded_versions")
@pytest.mark.parametrize("name", TRAINED_IN_BF16)
def test_only_cells_that_train_in_bf16_have_other_identities_than_recorded(name, tmp_path):
    lines = differences(GRIDS[name], described(name, tmp_path), name)
    changed = {line.partition(":")[0].removeprefix(f"{name} / hashes of ") for line in lines}
    regimes = [("dense", "finetune"), *itertools.product(METHODS, ("finetune", "iterative"))]
    cells = {f"cells / half {method} {regime}" for method, regime in regimes}
    # Stages and tasks have one hash for all models.
    assert changed - {"stages / all", "tasks / all"} == cells


@pytest.mark.usefixtures("recorded_versions")
@pytest.mark.parametrize("name", GRIDS)
def test_identities_are_the_recorded_ones(name, tmp_path, monkeypatch):
    if name in TRAINED_IN_BF16:
        # Without the version of bf16 training they are what they were.
        monkeypatch.delitem(TRAINING_VERSIONS, "mixed_precision")
    found = described(name, tmp_path)
    lines = differences(GRIDS[name], found, name)
    assert not lines, "\n".join(lines[:20])
    for part in ("cells", "stages"):
        # The order of cells is that of trials, tables and curves.
        assert list(GRIDS[name].get(part, ())) == list(found.get(part, ())), f"order of {part}"


def test_a_changed_identity_is_named_by_grid_and_cell(tmp_path):
    found = MADE["descriptions"](tmp_path)["oneshot"]()
    (cell, entry), *_ = found["cells"].items()
    recorded = {**found, "cells": {**found["cells"], cell: {**entry, "id": "another"}}}
    (line,) = differences(recorded, found, "oneshot")
    assert line.startswith(f"oneshot / cells / {cell} / id: 'another' is now")
