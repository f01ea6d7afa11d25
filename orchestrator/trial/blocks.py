"""Finished blocks of a half-pruned stage: saved now and then, taken up by a later process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.finished_blocks import FinishedBlock, Resumption, block_file, load_block, save_blocks
from core.pace import ASK_EVERY_SECONDS, Pace
from orchestrator.plan.stages import Stage
from orchestrator.trial.checkpoints import Opened, add_checkpoint, opened_checkpoint
from orchestrator.trial.workspace import Workspace


class Blocks:
    """The blocks that an earlier process saved, and a keeper of those that are pruned now."""

    def __init__(self, space: Workspace, stage: Stage, opened: Opened | None) -> None:
        self.space, self.stage = space, stage
        record: dict[str, Any] = {} if opened is None else opened.record
        self.directory = Path() if opened is None else opened.directory
        self.resumed: int = record.get("step", 0)
        """Blocks that need not be pruned again."""
        self.facts: dict[str, Any] = record.get("facts", {})
        """More that the stage has to take up: the outlier ratios of an allocation."""
        self.after = record and {"step": self.resumed, "part": record["part"]} or None
        self.unsaved: list[FinishedBlock] = []
        self.saves = True
        """False once another sweep has finished this stage, or saves it with other numbers."""
        self.saved_at = time.monotonic()
        seconds = space.job.limits.checkpoint_seconds
        self.pace = Pace(space.ranks, min(ASK_EVERY_SECONDS, seconds))

    def resumption(self) -> Resumption:
        """Return both ends for `prune_`."""
        return Resumption(self.earlier, self.keep)

    def earlier(self, index: int) -> FinishedBlock | None:
        """Return a block that was saved; None if it is yet to prune."""
        return load_block(block_file(self.directory, index)) if index < self.resumed else None

    def keep(self, block: FinishedBlock) -> None:
        """Save the blocks since the last save if that is long ago (collective)."""
        if not self.saves:
            return
        self.unsaved.append(block)
        if not self.is_due():
            return
        space, blocks = self.space, self.unsaved
        record = {"step": block.index + 1, "after": self.after, "facts": self.facts}
        self.after = add_checkpoint(
            space.store,
            space.ranks,
            self.stage.id,
            record,
            lambda directory: save_blocks(directory, blocks, space.ranks),
        )
        self.saved_at, self.unsaved = time.monotonic(), []
        self.saves = self.after is not None

    def is_due(self) -> bool:
        """Return True on all ranks if it is time to save by rank 0's clock, or a notice came.

        Blocks of a streamed model are saved at once, because keeping them would take memory.
        """
        return self.space.weights.streams or self.pace.asks(self._is_due)

    def _is_due(self) -> bool:
        """Return True if a notice came, or the last save is old enough by this rank's clock."""
        noticed = self.space.notice.save_now()
        age = time.monotonic() - self.saved_at
        return noticed or age >= self.space.job.limits.checkpoint_seconds


@contextmanager
def opened_blocks(space: Workspace, stage: Stage) -> Iterator[Blocks]:
    """The finished blocks of a pruning stage (collective)."""
    with opened_checkpoint(space.store, space.ranks, stage.id) as opened:
        yield Blocks(space, stage, opened)
