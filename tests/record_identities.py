"""Identities that must not change: those of the grids in identity_grids.py.

    python tests/record_identities.py

writes tests/recorded/identities.json. Run it only to add grids: where an entry that is there
changes, every sweep that users have stored is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from orchestrator.cli import parse
from orchestrator.config import SweepConfig
from orchestrator.inputs.tokens import tokens_id
from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import row_key
from orchestrator.plan.plan import Plan
from orchestrator.preparation import prepare

RECORDED = Path(__file__).resolve().parent / "recorded"
FILE = RECORDED / "identities.json"
LARGEST_IN_FULL = 45
"""Stages of a grid that is recorded in full; of a larger one the file holds hashes by group."""
GRIDS = runpy.run_path(str(Path(__file__).resolve().with_name("identity_grids.py")))
CASES: dict[str, Any] = GRIDS["CASES"]
EMBEDDED: dict[str, list[str]] = GRIDS["EMBEDDED"]


def target(cell: Cell) -> str:
    """Return the target of a cell as a text."""
    return cell.target.mask_structure or repr(cell.target.sparsity)


def describe(plan: Plan) -> dict[str, Any]:
    """Return all stages and cells of a plan; other stages are named by their first letters."""
    stages: dict[str, Any] = {}
    for stage in plan.stages.values():
        if stage.work.runs_in == "task":
            continue
        own = plan.models[stage.model].identity
        files = (tokens_id(reading, own) for reading in stage.work.readings())
        tokens = dict(zip(("tokens", "validation"), files))
        parent = None if stage.parent is None else stage.parent[:8]
        found = {"kind": stage.kind, "parent": parent, "text": stage.text, **tokens}
        stages[stage.id] = {name: value for name, value in found.items() if value is not None}
    cells: dict[str, Any] = {}
    for cell in plan.cells.values():
        seed = "" if cell.seed is None else f" seed {cell.seed}"
        name = f"{cell.model} {cell.method} {cell.regime} {target(cell)}{seed} round {cell.round}"
        assert name not in cells
        cells[name] = {
            "id": cell.id,
            "num_rounds": cell.num_rounds,
            "path": " ".join(map(repr, cell.path)),
            "stages": short(cell.stages),
            "before": short(cell.before),
            "evaluations": short(cell.evaluations),
            "rows": " ".join(row_key(cell.id, evaluation) for evaluation in cell.evaluations),
        }
    return {"cells": cells, "stages": stages}


def short(ids: tuple[str, ...]) -> str:
    """Return the first letters of each id."""
    return " ".join(each[:8] for each in ids)


def describe_tasks(case: Any) -> dict[str, Any]:
    """Return the task stages of a grid."""
    plan = case.plan()
    return {
        stage.id: {
            "task": stage.text,
            "parent": (stage.parent or "")[:8],
            "dense": stage.parent in {root.id for root in plan.roots()},
        }
        for stage in plan.task_stages()
    }


def digest(value: Any) -> str:
    """Return the first 32 digits of the SHA-256 of a value as JSON with sorted keys."""
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(data).hexdigest()[:32]


def compact(described: dict[str, Any]) -> dict[str, Any]:
    """Return a small grid as it is, of a large one counts and a hash for each group of cells."""
    parts = {name: part for name, part in described.items() if isinstance(part, dict)}
    if sum(map(len, parts.values())) - len(described["cells"]) <= LARGEST_IN_FULL:
        return described
    found: dict[str, Any] = {k: v for k, v in described.items() if k not in parts}
    for name, part in parts.items():
        groups: dict[str, dict[str, Any]] = {}
        for key, value in part.items():
            group = " ".join(key.split()[:3]) if name == "cells" else "all"
            groups.setdefault(group, {})[key] = value
        hashes = {group: f"{len(mine)} {digest(mine)}" for group, mine in groups.items()}
        found[f"hashes of {name}"] = hashes
    return found


def describe_case(name: str) -> dict[str, Any]:
    """Return the description of one grid of made-up inputs."""
    case = CASES[name]
    described = describe(case.plan())
    if case.tasks:
        described["tasks"] = describe_tasks(case)
    return described


def describe_embedded(name: str, out_dir: Path) -> dict[str, Any]:
    """Return the description of one sweep of the embedded model; hub files are made up."""
    flags = [*EMBEDDED[name], "--dtype", "float32", "--out-dir", str(out_dir)]
    hub = mock.patch("core.texts.sources.hub_commit", lambda *_: "a" * 40)
    files = mock.patch("huggingface_hub.hf_hub_download", lambda _, file, **__: file)
    # A text of one's own is called by its path.
    with hub, files, contextlib.chdir(RECORDED):
        sweep = prepare(parse(SweepConfig(), flags, ""))
    described = describe(sweep.plan)
    return {"sweep": sweep.id, "model": sweep.models[0].source.identity, **described}


def descriptions(out_dir: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return a function for each grid that plans and describes it."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in CASES:
        found[name] = lambda name=name: describe_case(name)
    for name in EMBEDDED:
        found[name] = lambda name=name: describe_embedded(name, out_dir)
    return found


def main() -> None:
    """Write the file."""
    made = descriptions(RECORDED / "absent")
    grids = {name: compact(describe()) for name, describe in made.items()}
    FILE.write_text(json.dumps(grids, indent=1) + "\n", encoding="utf-8")
    full = sum("cells" in grid for grid in grids.values())
    print(f"{len(grids)} grids, {full} of them in full; {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
