"""The plan of a grid: its cells, and the trees of stages that they are made of.

`planner.py` fills it in. Estimates, trials, inputs and the commands read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from orchestrator.plan.cell import DENSE, Cell, Settings
from orchestrator.plan.inputs import ModelInputs
from orchestrator.plan.stages import Stage
from orchestrator.plan.work import Work


class CurveName(NamedTuple):
    """All that the cells of one curve have in common."""

    model: str
    method: str
    regime: str
    axes: tuple[tuple[str, Any], ...] = ()
    """Settings in which blocks differ and that the cells read. Blocks that agree in them share the
    curve, also where their grids have other sparsities."""


@dataclass
class PlannedCurve:
    """Cells that differ in sparsity and seed only: what a search follows."""

    cells: dict[float, dict[str, Cell]] = field(default_factory=dict)
    """Cells by sparsity, then by id."""
    coarse: set[float] = field(default_factory=set)
    """Sparsities of the grids; a search has added the others."""
    blocks: dict[int, None] = field(default_factory=dict)
    """Numbers of the blocks that ask for the cells, in their order."""


@dataclass
class Plan:
    """All cells and stages of a grid, in the order they were asked for."""

    models: dict[str, ModelInputs]
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the run; kinds whose numbers depend on some of them name these."""
    stages: dict[str, Stage] = field(default_factory=dict)
    cells: dict[str, Cell] = field(default_factory=dict)
    curves: dict[CurveName, PlannedCurve] = field(default_factory=dict)
    """Curves of all blocks, which may share cells. N:M cells are on none."""
    asked_by: dict[str, dict[int, Settings]] = field(default_factory=dict)
    """Numbers of the blocks that ask for a cell, with their settings of it, by the cell's id."""
    within: list[tuple[float, ...]] = field(default_factory=list)
    """Ratios to the dense perplexity that a search follows, of each block."""
    extras: set[str] = field(default_factory=set)
    """Cells that no block's grid asks for, but a search."""
    looks: dict[str, list[str]] = field(default_factory=dict)
    """Stages that only look at weights, by the stage that has these."""
    steps: dict[str | None, list[str]] = field(default_factory=dict)
    """Stages with weights by the one that they start from; None has the dense models."""
    axes: list[Mapping[str, Any]] = field(default_factory=list)
    """For each block of settings its values of those settings in which blocks differ."""
    named: dict[tuple[str | None, Work], str] = field(default_factory=dict, repr=False)
    """Ids of works asked for so far, by parent: cells share most of them, and hashing is slow."""

    def add_stage(self, work: Work, model: str, method: str, parent: str | None) -> str:
        """Add a stage, or find the equal one; return its id."""
        found = self.named.get((parent, work))
        if found is not None:
            return found
        stage = Stage.of(work, model, method, parent, self.circumstances)
        self.named[parent, work] = stage.id
        if stage.id not in self.stages:
            self.stages[stage.id] = stage
            if parent is None or work.stores_weights:
                self.steps.setdefault(parent, []).append(stage.id)
            else:
                self.looks.setdefault(parent, []).append(stage.id)
        return stage.id

    def add_cell(self, cell: Cell) -> Cell:
        """Add a cell, or find the equal one (another block's, a seed without effect); return it."""
        self.asked_by.setdefault(cell.id, {}).setdefault(cell.block, cell.settings)
        return self.cells.setdefault(cell.id, cell)

    def add_to_curve(self, cell: Cell, block: int, is_extra: bool) -> None:
        """Note that a block's grid, or only a search, asks for a cell as a point of a curve."""
        curve = self.curves.setdefault(self.curve_name(cell, block), PlannedCurve())
        curve.cells.setdefault(cell.target.sparsity, {})[cell.id] = cell
        curve.blocks[block] = None
        if not is_extra:
            curve.coarse.add(cell.target.sparsity)

    def curve_name(self, cell: Cell, block: int) -> CurveName:
        """Return the name of the curve that a cell is on by the settings of a block."""
        axes = tuple(self.axes_of(cell, block).items())
        return CurveName(cell.model, cell.method, cell.regime, axes)

    def curve_of(self, cell: Cell, block: int) -> PlannedCurve | None:
        """Return the curve that a block has a cell on; None for dense and N:M cells."""
        if cell.method == DENSE or cell.target.mask_structure is not None:
            return None
        return self.curves[self.curve_name(cell, block)]

    def within_of(self, curve: PlannedCurve) -> tuple[float, ...]:
        """Return the ratios that a search follows on a curve: those of all of its blocks."""
        return tuple(sorted({ratio for block in curve.blocks for ratio in self.within[block]}))

    def axes_of(self, cell: Cell, block: int | None = None) -> dict[str, Any]:
        """Return the settings that a cell reads, of those in which blocks differ.

        Args:
            cell: the cell.
            block: number of the block whose values are wanted; by default the cell's own.
        """
        block = cell.block if block is None else block
        works = [self.stages[stage].work for stage in cell.stages]
        settings, is_plain = self.asked_by[cell.id][block], cell.target.mask_structure is None
        return {
            name: value
            for name, value in self.axes[block].items()
            if any(work.reads(name) for work in works) or is_plain and settings.reads(name)
        }

    def row_keys(self) -> set[str]:
        """Return the keys of all rows that the grid asks for."""
        return {key for cell in self.cells.values() for key in cell.row_keys()}

    def looks_at(self, stage_id: str) -> list[Stage]:
        """Return the stages that only look at a stage's weights."""
        return [self.stages[look] for look in self.looks.get(stage_id, [])]

    def steps_from(self, stage_id: str | None) -> list[Stage]:
        """Return the stages with weights of their own that start from a stage."""
        return [self.stages[step] for step in self.steps.get(stage_id, [])]

    def walk(self, stage_id: str) -> Iterator[Stage]:
        """Yield a stage and all below it: parents first, evaluations before further steps."""
        waiting = [self.stages[stage_id]]
        while waiting:
            stage = waiting.pop()
            yield stage
            waiting += reversed([*self.looks_at(stage.id), *self.steps_from(stage.id)])

    def roots(self) -> list[Stage]:
        """Return the dense models."""
        return self.steps_from(None)

    def root_of(self, model: str) -> Stage:
        """Return the dense stage of a model."""
        return next(stage for stage in self.roots() if stage.model == model)

    def task_stages(self) -> list[Stage]:
        """Return the stages that run in Ray tasks of their own, after the trials."""
        return [stage for stage in self.stages.values() if stage.work.runs_in == "task"]
