"""The plan of a grid: its cells, and the trees of stages that they are made of.

What planner.py fills in and all else reads: cost, trials, inputs and the sweep.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from core.targets import Target
from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import identity, stage_identity
from orchestrator.plan.inputs import ModelInputs
from orchestrator.plan.stages import Stage

EVALUATE_VERSION = 1
"""Raised whenever the numbers of evaluate stages would change."""


@dataclass
class Plan:
    """All cells and stages of a grid, in the order they were asked for."""

    models: dict[str, ModelInputs]
    stages: dict[str, Stage] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)

    def add_stage(
        self,
        kind: str,
        model: str,
        method: str,
        parent: str | None,
        fields: dict[str, Any],
        text: str | None = None,
    ) -> str:
        """Adds a stage, or finds the equal one; returns its id."""
        stage_id = stage_identity(kind, parent, fields)
        if stage_id not in self.stages:
            self.stages[stage_id] = Stage(stage_id, kind, model, method, parent, fields, text)
            if parent is not None:
                self.children.setdefault(parent, []).append(stage_id)
        return stage_id

    def add_evaluations(self, model: ModelInputs, method: str, parent: str) -> tuple[str, ...]:
        """One evaluate stage per text."""
        return tuple(
            self.add_stage(
                "evaluate",
                model.name,
                method,
                parent,
                {"version": EVALUATE_VERSION, "dtype": model.dtype, "text": text.fields},
                text.name,
            )
            for text in model.evaluations
        )

    def add_cell(
        self,
        model: ModelInputs,
        method: str,
        regime: str,
        target: Target,
        seed: int | None,
        stages: list[str],
        before: tuple[str, ...],
        round_index: int,
        num_rounds: int,
        path: tuple[float, ...] = (),
    ) -> None:
        """A cell at the end of `stages`; equal cells (a seed without effect) are one."""
        coordinates = {
            "stage": stages[-1],
            "model": model.name,
            "method": method,
            "regime": regime,
            "target": dataclasses.asdict(target),
            "seed": seed,
        }
        cell_id = identity(coordinates)
        evaluations = self.add_evaluations(model, method, stages[-1])
        self.cells.setdefault(
            cell_id,
            Cell(
                cell_id,
                model.name,
                method,
                regime,
                target,
                seed,
                tuple(stages),
                evaluations,
                before,
                round_index,
                num_rounds,
                path,
            ),
        )

    def row_keys(self) -> set[tuple[str, str]]:
        """(cell id, evaluate stage id) of every row that the grid asks for."""
        return {(cell.id, stage) for cell in self.cells.values() for stage in cell.evaluations}

    def walk(self, stage_id: str) -> Iterator[Stage]:
        """A stage and all below it, parents first, evaluations before further steps."""
        yield self.stages[stage_id]
        below = [self.stages[child] for child in self.children.get(stage_id, [])]
        for stage in sorted(below, key=lambda stage: stage.kind != "evaluate"):
            yield from self.walk(stage.id)

    def roots(self) -> list[Stage]:
        """The dense models."""
        return [stage for stage in self.stages.values() if stage.parent is None]
