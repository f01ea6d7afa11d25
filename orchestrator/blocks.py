"""Blocks: several whole settings of one sweep, whose cells make one plan.

A setting with several values makes a block for each combination. The blocks of a sweep share its
evaluation, resources and output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.checks import require
from orchestrator.config import SweepConfig

GROUPS = ("calibration", "prune", "finetune", "joint")
"""Groups of settings that may differ from block to block, beside the grid."""
GRID_AXES = ("schedule", "num_rounds")
"""Fields of the grid that set curves apart and that are no coordinate of a cell."""
STEPS = "sparsities"
"""Field of the grid that gives a cell's coordinate, and the path of iterative cells: this sets
curves apart."""


@dataclass(frozen=True)
class BlocksConfig(SweepConfig):
    """Settings of several blocks; those of the first are its own fields."""

    others: tuple[SweepConfig, ...] = ()
    """The settings of further blocks."""
    left_out: tuple[str, ...] = ()
    """Lines about cells that cannot be: how many, and why."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values of the first block."""
        return blocks_of(self)[0].to_dict()

    @classmethod
    def of(cls, blocks: Sequence[SweepConfig], left_out: Sequence[str] = ()) -> SweepConfig:
        """Return the settings of these blocks; those of one block alone are what they were.

        Raises:
            BadInputError: a search, and blocks with other seeds than the rest.
        """
        if len(blocks) == 1 and not left_out:
            return blocks[0]
        other = next((b.grid.seeds for b in blocks if b.grid.seeds != blocks[0].grid.seeds), None)
        told = " ".join(map(str, other or ()))
        remedy = "a search (--within) needs the same seeds in all blocks"
        require(other is None or not any(b.grid.within for b in blocks), "seeds", told, remedy)
        names = [field.name for field in dataclasses.fields(SweepConfig)]
        first = {name: getattr(blocks[0], name) for name in names}
        return cls(**first, others=tuple(blocks[1:]), left_out=tuple(left_out))


def blocks_of(config: SweepConfig) -> tuple[SweepConfig, ...]:
    """Return the blocks of a sweep, each a whole scalar setting."""
    if not isinstance(config, BlocksConfig):
        return (config,)
    names = [field.name for field in dataclasses.fields(SweepConfig)]
    return (SweepConfig(**{name: getattr(config, name) for name in names}), *config.others)


def lines_left_out(config: SweepConfig) -> tuple[str, ...]:
    """Return a line for each reason why cells of the grid were left out."""
    return config.left_out if isinstance(config, BlocksConfig) else ()


def settings_of(config: SweepConfig) -> dict[str, Any]:
    """Return the settings of a block that may differ from those of another, by name."""
    found = {name: getattr(config.grid, name) for name in GRID_AXES}
    for group in GROUPS:
        settings = getattr(config, group)
        for field in dataclasses.fields(settings):
            found[f"{group}.{field.name}"] = getattr(settings, field.name)
    return found


def axes_of(blocks: Sequence[SweepConfig]) -> list[dict[str, float | str]]:
    """Return for each block its values of the settings in which the blocks differ.

    Values of a setting that has only numbers are numbers, all others are text.
    """
    every: list[dict[str, Any]] = [
        settings_of(block) | {STEPS: steps_of(block)} for block in blocks
    ]
    found: list[dict[str, float | str]] = [{} for _ in blocks]
    for name in every[0]:
        values = [settings[name] for settings in every]
        if all(value == values[0] for value in values):
            continue
        is_number = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        for axes, value in zip(found, values):
            axes[name] = value if is_number else in_words(value)
    return found


def steps_of(block: SweepConfig) -> tuple[float, ...]:
    """Return the sparsities of a block, each once and in rising order."""
    return tuple(sorted({round(sparsity, 6) for sparsity in block.grid.sparsities}))


def in_words(value: object) -> str:
    """Return a value as a flag takes it; values of a list have a plus between them."""
    return "+".join(map(str, value)) or "None" if isinstance(value, tuple) else str(value)


def science_of(config: SweepConfig) -> Mapping[str, Any]:
    """Return plain values of what may differ from block to block."""
    return {name: dataclasses.asdict(getattr(config, name)) for name in ("grid", *GROUPS)}
