"""Zero-shot tasks of a plan, a stage for each task and final model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.config import EvalConfig
from core.measures.zero_shot import TASKS_VERSION, task_identity, task_label
from orchestrator.plan.identity import stage_identity
from orchestrator.plan.plan import Plan
from orchestrator.plan.stages import TASKS_KIND, Stage


@dataclass(frozen=True)
class TaskRun:
    """One task on one model: what a Ray task is told."""

    stage: Stage
    """Of kind `tasks`; its parent has the weights."""
    task: str
    """As the user named it."""
    dense: bool
    """Whether the weights are the source's own."""


def task_runs(plan: Plan, tasks: tuple[str, ...], limit: int | None) -> list[TaskRun]:
    """Every task on the last stage of every cell, once a stage."""
    runs: dict[str, TaskRun] = {}
    for cell in plan.cells.values():
        last = plan.stages[cell.stages[-1]]
        for task in tasks:
            fields: dict[str, Any] = {
                "version": TASKS_VERSION,
                "task": task_identity(task),
                "limit": limit,
                "dtype": plan.models[cell.model].dtype,
            }
            run_id = stage_identity(TASKS_KIND, last.id, fields)
            stage = Stage(
                run_id, TASKS_KIND, cell.model, cell.method, last.id, fields, task_label(task)
            )
            runs.setdefault(run_id, TaskRun(stage, task, last.kind == "dense"))
    return list(runs.values())


def wanted_weights(plan: Plan, config: EvalConfig, manifests: Mapping[str, Any]) -> set[str]:
    """Stored stages that a missing task run starts from."""
    runs = task_runs(plan, config.tasks, config.task_limit)
    missing = {run.stage.parent for run in runs if run.stage.id not in manifests}
    return {stage for stage in missing if stage is not None and stage in manifests}
