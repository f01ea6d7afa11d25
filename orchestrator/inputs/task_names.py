"""Zero-shot tasks: names become tasks with an identity, checked before anything runs."""

from __future__ import annotations

import os

from core.config import EvalConfig
from core.measures.zero_shot import is_definition, require_tasks, task_identity, task_label
from core.paths import local_path
from orchestrator.plan.inputs import TaskInput


def resolve_tasks(config: EvalConfig) -> tuple[TaskInput, ...]:
    """Return the tasks of a sweep.

    Raises:
        ValueError: one line naming the flag, the task and the remedy.
    """
    if config.tasks:
        require_tasks(config.tasks)
    # A definition's path is absolute, because workers run in a directory of their own.
    names = [
        os.path.abspath(local_path("eval.tasks", name)) if is_definition(name) else name
        for name in config.tasks
    ]
    return tuple(TaskInput(name, task_identity(name), task_label(name)) for name in names)
