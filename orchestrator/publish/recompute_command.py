"""The command that computes one cell again and keeps its weights.

It is the command of the cell's sweep, narrowed to the smallest grid that has the cell. Flags that
this grid does not read are left out, because a sweep refuses them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from core.targets import Target
from orchestrator.results.schema import Row


def recompute_command(record: Mapping[str, Any] | None, row: Row) -> str:
    """Return the command.

    Args:
        record: what the sweep recorded of itself, with its command; None if it is not known.
        row: one of the cell's rows.
    """
    known = {"models": [row["model"]], **narrowed(row), "keep": ["final"]}
    words = shlex.split((record or {}).get("command", "python experiments/sweep_opt.py"))
    kept: list[str] = []
    keeping = True
    for word in words:
        if word.startswith("--"):
            flag = word[2:].partition("=")[0].replace("_", "-")
            keeping = flag not in known and is_read(flag, row)
        if keeping:
            kept.append(word)
    for flag, values in known.items():
        kept += [f"--{flag}", *values]
    return shlex.join(kept)


def narrowed(row: Row) -> dict[str, list[str]]:
    """Return the flags of the smallest grid with the cell; any grid has the tuned dense model."""
    if row["method"] == "dense":
        return {}
    structure = row["mask_structure"]
    on_grid = row["regime"] == "iterative" and row.get("schedule") == "grid"
    sparsities = row["path"] if on_grid else [row["sparsity"]]
    found = {
        "methods": [row["method"]],
        "regimes": [row["regime"]],
        "sparsities": [] if structure else [Target(s).label for s in sparsities],
        "mask-structures": [structure] if structure else [],
    }
    return found | ({} if row.get("seed") is None else {"seeds": [str(row["seed"])]})


def is_read(flag: str, row: Row) -> bool:
    """Return True if a flag has an effect on the way to the cell."""
    if row["method"] == "dense":
        return True
    section, _, name = flag.partition(".")
    if section == "finetune":
        return row["regime"] != "oneshot"
    if section == "joint":
        return row["regime"] == "joint"
    if section == "calibration":
        return row.get("calibration_text") is not None
    if section == "prune":
        return name.replace("-", "_") in json.loads(row.get("method_settings") or "{}")
    if flag in ("schedule", "num-rounds"):
        return row["regime"] == "iterative"
    return flag not in ("dry-run", "retry-failed", "trackers", "within")
