"""Stages: the steps on the way to a cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TASKS_KIND = "tasks"
"""Kind of the stages that hold results of zero-shot tasks."""


@dataclass(frozen=True)
class Stage:
    """One step on the way to a cell."""

    id: str
    kind: str
    """`dense`, `prune`, `finetune` or `evaluate`."""
    model: str
    method: str
    parent: str | None
    fields: dict[str, Any]
    """What the id is a hash of, parent included through its id."""
    text: str | None = None
    """Name of the text it reads, for rows."""

    def head(self) -> dict[str, Any]:
        """What a manifest says of the stage itself."""
        names = ("id", "kind", "parent", "model", "method", "fields")
        return {name: getattr(self, name) for name in names}
