"""Settings and progress of a training loop: pieces of work, checkpoints, reports."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from core.pace import ASK_EVERY_SECONDS, Pace
from core.ranks import Ranks
from core.training.checkpoints import load_training_, save_training
from core.training.splitting import Splitting

SaveCheckpoint = Callable[[int, Callable[[Path], None]], None]
"""Called with (steps done, write) when it is time to save; calls write(directory) on each rank."""
Report = Callable[[int, int, float], None]
"""Called with (steps done, steps, loss) after each step."""


@dataclass(frozen=True)
class Loop:
    """Settings of a training loop beside model, data and learning: how it runs and reports."""

    ranks: Ranks
    """This process among the others."""
    micro_batch: int = 8
    """Windows in one forward pass on one rank."""
    compute_dtype: torch.dtype = torch.float32
    """Dtype of forward and backward passes; weights, losses and steps are float32."""
    recompute: bool = False
    """Run the forward pass of each block again in the backward pass instead of keeping it."""
    resume_from: Path | None = None
    """Directory that a checkpoint was written to."""
    save_checkpoint: SaveCheckpoint | None = None
    """Stores what `write(directory)` writes."""
    save_every_seconds: float = 60.0
    """Shortest time between two checkpoints."""
    save_now: Callable[[], bool] = lambda: False
    """Returns True on all ranks if a checkpoint cannot wait; asked about every five seconds
    (collective)."""
    report: Report | None = None
    """Receives the loss after each step."""


@dataclass(frozen=True)
class FinetuneReport:
    """Result of one round of training."""

    num_tokens: int
    """Tokens trained on: windows times their length."""
    losses: list[float]
    """Mean training loss of every step since this process began the round: nats a token, or the
    relative squared error where blocks are reconstructed."""
    steps_resumed: int
    """Steps that an earlier process had done."""
    whole_blocks: int = field(default=0, kw_only=True)
    """Blocks that reconstruction trained as a whole, since no place lies between two halves."""


class Progress:
    """Steps of a loop so far: their losses, their reports and the checkpoints between them."""

    def __init__(
        self,
        loop: Loop,
        num_steps: int,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer | None,
        splitting: Splitting | None = None,
    ) -> None:
        """Load the checkpoint to resume from, if there is one, into all of the state."""
        self.loop, self.num_steps = loop, num_steps
        self.state = (model, optimizer, splitting)
        resume = loop.resume_from
        self.first = 0 if resume is None else load_training_(resume, *self.state)
        self.losses: list[float] = []
        self.saved_at = time.monotonic()
        self.pace = Pace(loop.ranks, min(ASK_EVERY_SECONDS, loop.save_every_seconds))
        self.seen = self.first
        """Steps done when `save_if_due` was last called."""

    @property
    def done(self) -> int:
        """Steps done, those of an earlier process included."""
        return self.first + len(self.losses)

    def add(self, loss: float) -> None:
        """Record and report the loss of one more step."""
        self.losses.append(loss)
        if self.loop.report is not None:
            self.loop.report(self.done, self.num_steps, loss)

    def save_if_due(self) -> None:
        """Save a checkpoint if the last one is old enough and there is news (collective)."""
        save, steps = self.loop.save_checkpoint, self.done - self.seen
        self.seen = self.done
        if save is None or not self.first < self.done < self.num_steps:
            return
        if not self.pace.asks(self._is_due, steps):
            return
        (model, optimizer, splitting), ranks, done = self.state, self.loop.ranks, self.done
        save(
            done,
            lambda directory: save_training(directory, model, optimizer, done, ranks, splitting),
        )
        self.saved_at = time.monotonic()

    def _is_due(self) -> bool:
        """Return True if a checkpoint cannot wait, or the last is old by this rank's clock."""
        now, age = self.loop.save_now(), time.monotonic() - self.saved_at
        return now or age >= self.loop.save_every_seconds
