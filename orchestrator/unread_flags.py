"""Refusals of flags that a run would not read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.checks import require
from core.methods import EVERY_METHOD, needs_calibration
from orchestrator.config import ResourceConfig, SweepConfig


def explicit_flags(arguments: list[str]) -> set[str]:
    """Return the names of the flags on a command line, without dashes: `calibration.text`."""
    flags = (a[2:].split("=")[0] for a in arguments if a.startswith("--"))
    parts = (flag.replace("_", "-").rpartition(".") for flag in flags)
    return {f"{group}{point}{name.removeprefix('no-')}" for group, point, name in parts}


def require_read(given: Mapping[str, Sequence[SweepConfig]]) -> None:
    """Refuse explicit flags that no cell reads.

    Args:
        given: for each flag, as `explicit_flags` names it, the blocks that it was given for.
    """
    rules = {id(config): rules_of(config) for configs in given.values() for config in configs}
    for flag in sorted(given):
        reasons = [rules[id(config)].why_unread(flag) for config in given[flag]]
        if reasons and all(reasons):
            require(False, flag, "has no effect", reasons[0])


@dataclass(frozen=True)
class Rules:
    """Facts of one block that say which flags its cells read."""

    subjects: tuple[tuple[str, bool, str], ...]
    """Flags or groups, each with True if it is read, and a remedy."""
    fields_read: frozenset[str]
    """Fields of `PruneConfig` that a method reads."""

    def why_unread(self, flag: str) -> str:
        """Return why no cell reads a flag; empty if one does."""
        group, _, name = flag.partition(".")
        for subject, is_read, remedy in self.subjects:
            if subject in (group, flag) and not is_read:
                return remedy
        known = group != "prune" or name.replace("-", "_") in self.fields_read
        return "" if known else "no chosen method reads it"


def rules_of(config: SweepConfig) -> Rules:
    """Return the facts of one block."""
    trains, iterates = config.grid.trains, "iterative" in config.grid.regimes
    methods, finetunes = config.pruning_methods(), config.grid.finetunes
    calibrated = any(needs_calibration(name, config.prune) for name in methods)
    one_block = "--finetune.objective reconstruct holds one block at a time anyway"
    subjects = (
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
    read = (field for name in methods for field in EVERY_METHOD[name].fields_read)
    return Rules(subjects, frozenset(read))


def require_alone(explicit: set[str]) -> None:
    """Refuse explicit flags that `--from-row` takes from the recorded row."""
    read = {field.name for field in dataclasses.fields(ResourceConfig)} | {"from_row", "out_dir"}
    for flag in sorted(explicit):
        known = flag.replace("-", "_") in read
        require(known, flag, "has no effect", "--from-row takes it from the recorded row")
