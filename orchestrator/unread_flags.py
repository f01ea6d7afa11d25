"""Refusals of flags that a run would not read."""

from __future__ import annotations

import dataclasses

from core.checks import require
from core.methods import EVERY_METHOD, needs_calibration
from orchestrator.config import ResourceConfig, SweepConfig


def explicit_flags(arguments: list[str]) -> set[str]:
    """Return the names of the flags on a command line, without dashes: `calibration.text`."""
    flags = (a[2:].split("=")[0] for a in arguments if a.startswith("--"))
    return {flag.replace("_", "-").removeprefix("no-") for flag in flags}


def require_read(config: SweepConfig, explicit: set[str]) -> None:
    """Refuse explicit flags that no cell of the grid reads.

    Args:
        config: the resolved settings.
        explicit: names as `explicit_flags` gives them.
    """
    trains, iterates = config.grid.trains, "iterative" in config.grid.regimes
    methods, finetunes = config.pruning_methods(), config.grid.finetunes
    calibrated = any(needs_calibration(name, config.prune) for name in methods)
    one_block = "--finetune.objective reconstruct holds one block at a time anyway"
    rules = (
        ("calibration", calibrated, "no chosen method reads calibration text"),
        ("finetune", trains, "no chosen regime trains"),
        ("finetune.lr", finetunes, "joint training reads --joint.lr"),
        ("finetune.budget", finetunes, "joint training has one round"),
        ("joint", config.grid.joins, "add joint to --regimes"),
        ("activation-checkpointing", trains, "no chosen regime trains"),
        ("activation-checkpointing", config.finetune.objective == "next_token", one_block),
        ("schedule", iterates, "only the iterative regime has rounds"),
        ("num-rounds", iterates, "only the iterative regime has rounds"),
        ("stop-perplexity", finetunes, "no chosen regime goes on from a pruned model"),
        ("seeds", calibrated or trains, "no chosen cell draws anything"),
    )
    read = {field for name in methods for field in EVERY_METHOD[name].fields_read}
    for flag in sorted(explicit):
        group, _, name = flag.partition(".")
        for subject, is_read, remedy in rules:
            require(is_read or subject not in (group, flag), flag, "has no effect", remedy)
        known = group != "prune" or name.replace("-", "_") in read
        require(known, flag, "has no effect", "no chosen method reads it")


def require_alone(explicit: set[str]) -> None:
    """Refuse explicit flags that `--from-row` takes from the recorded row."""
    read = {field.name for field in dataclasses.fields(ResourceConfig)} | {"from_row", "out_dir"}
    for flag in sorted(explicit):
        known = flag.replace("-", "_") in read
        require(known, flag, "has no effect", "--from-row takes it from the recorded row")
