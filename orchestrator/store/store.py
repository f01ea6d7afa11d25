"""The store of one out-dir: its files, stages, checkpoints and rows."""

from __future__ import annotations

from orchestrator.store.checkpoints import Checkpoints
from orchestrator.store.files import Files
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
