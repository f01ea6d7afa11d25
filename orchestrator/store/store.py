"""The store of one out-dir: its files, stages, checkpoints and rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.store.checkpoints import Checkpoints
from orchestrator.store.files import Files
from orchestrator.store.leftovers import remove_leftovers
from orchestrator.store.rows import Rows
from orchestrator.store.scratch import Scratch
from orchestrator.store.stages import Stages

MARKER = "sweep-store.json"
"""The file that tells an out-dir from any other directory."""
PULSES = "pulse"
"""The folder in which each running sweep leaves signs of life."""


class Store:
    """The parts of one out-dir. Naming a store creates nothing."""

    def __init__(self, root: str) -> None:
        """Name the store at `root`, a local directory or a URI.

        Raises:
            ValueError: the kind of URI is unknown.
        """
        self.root = root
        self.files = Files(root)
        self.scratch = Scratch(self.files)
        self.stages = Stages(self.files)
        self.checkpoints = Checkpoints(self.files)
        self.rows = Rows(self.files)

    def remove_leftovers(self, manifests: Mapping[str, dict[str, Any]]) -> str | None:
        """Remove what killed processes left beside the stages; return a line if anything was.

        Args:
            manifests: those of whole stages that are known, by id.
        """
        return remove_leftovers(self.files, manifests)

    def save_indexes(self) -> None:
        """Write what was read of stages and rows into their indexes, so that others read it so."""
        self.stages.index.save()
        self.rows.index.save()
