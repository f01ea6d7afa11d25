"""Stage, cell, row and token identities of many grids stay those of the recorded file.

Whoever changes one of them makes every stored sweep be computed again. The grids are in
identity_grids.py; record_identities.py writes the file that is compared with here.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize("name", GRIDS)
def test_identities_are_the_recorded_ones(name, tmp_path):
    described = MADE["descriptions"](tmp_path)[name]()
    found = json.loads(json.dumps(MADE["compact"](described)))
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
