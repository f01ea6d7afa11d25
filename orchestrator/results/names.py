"""Names of targets and cells as people read them; all outputs take them from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.targets import Target
from orchestrator.plan.cell import Cell
from orchestrator.results.schema import axes_in

CONTROL = "trained alike"
"""Shown in place of a regime for the dense model that was trained like the pruned ones."""


def target_of(row: Mapping[str, Any]) -> Target:
    """Return the target of a row, or of a cell as a record describes it."""
    return Target(row["sparsity"], row.get("mask_structure"))


def in_words(target: Target) -> str:
    """Return `sparsity 0.5`, or the mask structure, which needs no word before it."""
    return target.mask_structure or f"sparsity {target.label}"


@dataclass(frozen=True)
class CellName:
    """Facts that tell a cell from the others of its sweep, and the texts made of them."""

    model: str
    method: str
    regime: str
    target: Target
    round: int | None
    seed: int | None
    axes: tuple[str, ...] = ()
    """Settings in which blocks of its sweep differ, each with its value."""

    @classmethod
    def of_cell(cls, cell: Cell) -> CellName:
        """Return the name of a planned cell."""
        return cls(cell.model, cell.method, cell.regime, cell.target, cell.round, cell.seed)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> CellName:
        """Return the name of the cell of a row, or of a cell as a record describes it."""
        known = (row["model"], row["method"], row["regime"], target_of(row))
        axes = {**row.get("axes", {}), **axes_in(row)}
        told = tuple(f"{name.replace('_', '-')} {value}" for name, value in axes.items())
        return cls(*known, row.get("round"), row.get("seed"), told)

    @property
    def short(self) -> str:
        """Method, regime and target: `wanda oneshot 0.5`; the control has a round for a target."""
        aim = self.target.label
        if self.method == "dense":
            aim = "" if self.regime == "dense" else f"round {self.round}"
        return " ".join(filter(None, (self.method, self.regime, aim)))

    @property
    def full(self) -> str:
        """All facts: `facebook/opt-125m wanda oneshot 0.5 seed 0`, then values of axes."""
        seed = "" if self.seed is None else f" seed {self.seed}"
        return " ".join([f"{self.model} {self.short}{seed}", *self.axes])

    @property
    def title(self) -> str:
        """A heading without model and seed: `wanda · oneshot · sparsity 0.5`."""
        if self.method == "dense":
            return "dense" if self.regime == "dense" else f"dense, {CONTROL}"
        return f"{self.method} · {self.regime} · {in_words(self.target)}"
