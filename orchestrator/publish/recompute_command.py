"""The command that computes one cell again and keeps its weights.

It is the command of the cell's sweep, narrowed to the smallest grid that has the cell. Flags that
this grid does not read are left out, because a sweep refuses them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from core.targets import Target
from orchestrator.blocks import settings_of
from orchestrator.config import SweepConfig
from orchestrator.help import EACH
from orchestrator.results.record import BLOCKS
from orchestrator.results.schema import Row

OWN_OF_MASKED = ("lr", "budget")
"""Settings of masked training that joint training does not share."""


def recompute_command(record: Mapping[str, Any] | None, row: Row) -> str:
    """Return the command.

    Args:
        record: what the sweep recorded of itself, with its command; None if it is not known.
        row: one of the cell's rows.
    """
    words = shlex.split((record or {}).get("command", "python experiments/sweep_opt.py"))
    known = {"models": [row["model"]], **narrowed(row), "keep": ["final"]}
    known |= own_settings(record or {}, row, words)
    kept: list[str] = []
    keeping = True
    for word in words:
        if word.startswith("--"):
            flag = word[2:].partition("=")[0].replace("_", "-")
            keeping = flag.replace(EACH, "") not in known and is_read(flag, row)
        if keeping:
            kept.append(word)
    for flag, values in known.items():
        kept += [f"--{flag}", *values]
    return shlex.join(kept)


def own_settings(record: Mapping[str, Any], row: Row, words: Sequence[str]) -> dict[str, list[str]]:
    """Return the flags that give a cell of one block its settings; none where there is one block.

    Args:
        record: what the sweep recorded of itself.
        row: one of the cell's rows.
        words: the command of the sweep. With a file of blocks, all settings are given.
    """
    has_file = any(word.partition("=")[0] == "--grid" for word in words)
    blocks = [settings_of(SweepConfig.from_dict(block)) for block in record.get(BLOCKS, [])]
    if not row.get("config") or not (has_file or blocks):
        return {}
    config, usual = SweepConfig.from_dict(json.loads(row["config"])), SweepConfig()
    mine, others = settings_of(config), blocks
    if has_file:
        mine |= {f"eval.{name}": value for name, value in vars(config.eval).items()}
        evaluated = {f"eval.{name}": value for name, value in vars(usual.eval).items()}
        others = [settings_of(usual) | evaluated]
    found: dict[str, list[str]] = {}
    for name, value in mine.items():
        flag = name.replace("_", "-")
        if is_read(flag, row) and any(value != other[name] for other in others):
            values = value if isinstance(value, tuple) else [value]
            group, point, last = flag.rpartition(".")
            off = f"{group}{point}no-{last}" if value is False else flag
            found[off] = [] if isinstance(value, bool) else [*map(str, values)]
    return found


def trains_with(name: str, row: Row) -> bool:
    """Return True if the training of a cell reads a setting of masked training."""
    if name == "validation":
        rates = json.loads(row.get("finetune_settings") or "{}").get("lr")
        return isinstance(rates, list)
    return row["regime"] != "oneshot" and not (row["regime"] == "joint" and name in OWN_OF_MASKED)


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
        return trains_with(name.removeprefix(EACH), row)
    if section == "joint":
        return row["regime"] == "joint"
    if section == "calibration":
        return row.get("calibration_text") is not None
    if section == "prune":
        return name.replace("-", "_") in json.loads(row.get("method_settings") or "{}")
    if flag in ("schedule", "num-rounds"):
        return row["regime"] == "iterative"
    return flag not in ("dry-run", "retry-failed", "trackers", "within", "grid")
