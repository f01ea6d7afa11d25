"""The plan of a sweep, by its settings and by what its store holds.

A search adds cells to the grid. It is repeated from the rows of the store whenever the sweep is
planned, so a sweep that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.blocks import axes_of, blocks_of
from orchestrator.config import SweepConfig
from orchestrator.estimate.block_costs import device_of
from orchestrator.inputs.models import ResolvedModel
from orchestrator.inputs.task_names import resolve_tasks
from orchestrator.plan.cell import Cell
from orchestrator.plan.missing import cells_for_tasks, dropped_cells, to_run
from orchestrator.plan.plan import Plan
from orchestrator.plan.planner import Extra, Planner, build_plan
from orchestrator.plan.search import Rows, asked


@dataclass(frozen=True)
class Found:
    """The contents of a store when a sweep begins."""

    manifests: dict[str, dict[str, Any]]
    """Manifests of whole stages by id."""
    damaged: dict[str, str]
    """Stages that are not whole, and why: they count as missing, and a run sets them aside."""
    rows: dict[str, dict[str, Any]]
    """Rows by key."""

    @cached_property
    def kept(self) -> set[str]:
        """Stages whose files are there; weights that a keep policy dropped are not."""
        return {stage for stage, found in self.manifests.items() if not found.get("dropped")}


Extras = dict[int, tuple[Extra, ...]]
"""Cells beside the grid, by block."""


Resolved = Sequence[Sequence[ResolvedModel]]
"""The models of each block, with their texts."""


def plan_of(config: SweepConfig, resolved: Resolved, extras: Extras) -> Plan:
    """Return the plan of all blocks, with cells beside their grids."""
    tasks, blocks = resolve_tasks(config.eval), blocks_of(config)
    planners = [
        Planner(
            *(block.grid, block.prune, block.finetune, tasks, block.eval.task_limit, block.joint),
            extras=extras.get(i, ()),
            axes=axes,
            speed=block.eval.speed,
        )
        for i, (block, axes) in enumerate(zip(blocks, axes_of(blocks)))
    ]
    inputs = ([model.inputs for model in models] for models in resolved)
    return build_plan(zip(planners, inputs), {"device": device_of(config)})


def searched_plan(config: SweepConfig, resolved: Resolved, found: Found) -> Plan:
    """Return the plan of all blocks, with all cells that their searches have asked for so far.

    A search is repeated from the rows of the store, so a sweep that was stopped goes on where it
    was.
    """
    plan, extras = plan_of(config, resolved, {}), Extras()
    while any(plan.within):
        further = asked(plan, standing(config, plan, found))
        if further == extras:
            break
        plan, extras = plan_of(config, resolved, further), further
    return plan


def standing(config: SweepConfig, plan: Plan, found: Found) -> Rows:
    """Return the rows of the cells of a plan that are not to run again."""
    open_cells = {cell.id for cell in cells_to_run(config, plan, found)}
    done = [cell for cell in plan.cells.values() if cell.id not in open_cells]
    return {key: found.rows[key] for cell in done for key in cell.row_keys()}


def missing_cells(config: SweepConfig, plan: Plan, found: Found) -> tuple[list[Cell], set[str]]:
    """Return the cells to run, and their stages whose dropped weights are asked for again."""
    cells = cells_to_run(config, plan, found)
    lost: list[Cell] = []
    if config.output.keep in ("final", "all"):
        lost += dropped_cells(plan, found.manifests)
    lost += cells_for_tasks(plan, found.manifests, found.kept)
    known = {cell.id for cell in cells}
    for cell in lost:
        if cell.id not in known:
            known.add(cell.id)
            cells.append(cell)
    return cells, {cell.stages[-1] for cell in lost}


def cells_to_run(config: SweepConfig, plan: Plan, found: Found) -> list[Cell]:
    """Return the cells that lack a row or a stage, or are to be tried again."""
    retry, limit = config.output.retry_failed, config.resources.stop_perplexity
    stored, every = set(found.manifests), plan.cells.values()
    return [cell for cell in every if to_run(cell, found.rows, stored, retry, limit)]
