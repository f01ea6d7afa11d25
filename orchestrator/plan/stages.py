"""A stage: one step on the way to a cell, named by a hash of all that determines its numbers.

Regimes that meet at one stage share it, and any later sweep finds a finished stage again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.plan.identity import identity
from orchestrator.plan.work import Work


@dataclass(frozen=True)
class Stage:
    """One step: its work, and the stage whose weights it starts from."""

    id: str
    work: Work
    model: str
    method: str
    parent: str | None
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the run that the numbers depend on, of those that the kind names."""

    @classmethod
    def of(
        cls,
        work: Work,
        model: str,
        method: str,
        parent: str | None,
        circumstances: Mapping[str, Any] | None = None,
    ) -> Stage:
        """Return the stage of this work on this parent.

        Args:
            work: what the stage does.
            model: name of the model.
            method: name of the method that the branch is of, `dense` for the dense model.
            parent: id of the stage whose weights it starts from.
            circumstances: facts of the run; the kind says which of them count.
        """
        known = {name: (circumstances or {})[name] for name in work.circumstances}
        return cls(stage_identity(work, parent, known), work, model, method, parent, known)

    @property
    def kind(self) -> str:
        """Name of the kind."""
        return self.work.kind

    @property
    def fields(self) -> dict[str, Any]:
        """All that the id is a hash of, beside kind and parent."""
        return {**self.work.fields(), **self.circumstances}

    @property
    def text(self) -> str | None:
        """Name of the text or task that it reads, for rows."""
        return self.work.text_name()

    def head(self) -> dict[str, Any]:
        """Return what a manifest says of the stage itself."""
        names = ("id", "kind", "parent", "model", "method", "fields")
        return {name: getattr(self, name) for name in names}


def stage_identity(
    work: Work, parent: str | None, circumstances: Mapping[str, Any] | None = None
) -> str:
    """Return the id of the stage that does this work on the weights of `parent`."""
    fields = {**work.fields(), **(circumstances or {})}
    return identity({"kind": work.kind, "parent": parent, **fields})
