"""Zero-shot tasks: names become tasks with an identity, checked before anything runs."""

from __future__ import annotations

from core.config import EvalConfig
from core.measures.zero_shot import require_tasks, task_identity, task_label
from orchestrator.plan.inputs import TaskInput


def resolve_tasks(config: EvalConfig) -> tuple[TaskInput, ...]:
    """Return the tasks of a sweep.

    Raises:
        ValueError: one line naming the flag, the task and the remedy.
    """
    if config.tasks:
        require_tasks(config.tasks)
    return tuple(TaskInput(name, task_identity(name), task_label(name)) for name in config.tasks)
