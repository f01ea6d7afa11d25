"""A cell, the stages on the way to it and the inputs they read, as plain values.

A stage's id is a hash of everything that determines its numbers, so regimes that meet at one stage
share it and a finished stage is found again by any later sweep.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.targets import Target


@dataclass(frozen=True)
class Cell:
    """One point of the grid; one row per evaluation text."""

    id: str
    model: str
    method: str
    regime: str
    target: Target
    seed: int | None
    stages: tuple[str, ...]
    """Weight stages from the dense model to this cell's last, the dense one included."""
    evaluations: tuple[str, ...]
    """Evaluate stages of the last stage, in the order of the model's texts."""
    before: tuple[str, ...]
    """Evaluate stages before this round's training; empty where nothing was trained."""
    round: int
    num_rounds: int
    path: tuple[float, ...]
    """Sparsities that the branch passed through."""

    def all_stages(self) -> tuple[str, ...]:
        """Every stage that this cell's rows are made of, the dense model first."""
        return (*self.stages, *self.before, *self.evaluations)
