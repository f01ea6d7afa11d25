"""A cell: one point of the grid, and the stages on the way to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.targets import Target
from orchestrator.plan.identity import identity, row_key, values_of

DENSE = "dense"
"""Method and regime of the dense model; its trained control has the method only."""


@dataclass(frozen=True)
class Point:
    """Coordinates of a cell in the grid of one model."""

    method: str
    regime: str
    target: Target
    seed: int | None


@dataclass(frozen=True)
class Settings:
    """Settings of a cell that no stage reads, for its rows; None where they say nothing."""

    protocol: str
    schedule: str | None = None
    """Schedule of an iterative branch."""
    budget: str | None = None
    """Token budget of a branch that trains."""

    def reads(self, name: str) -> bool:
        """Return True if the path of an unstructured cell depends on a setting of the grid."""
        steps = "sparsities" if self.schedule == "grid" else "num_rounds"
        return self.schedule is not None and name in ("schedule", steps)


@dataclass(frozen=True)
class Cell:
    """One point of the grid; it has one row for each evaluation text."""

    model: str
    point: Point
    settings: Settings
    stages: tuple[str, ...]
    """Stages from the dense model to this cell's last weights, the dense one included."""
    evaluations: tuple[str, ...]
    """Evaluate stages of the last weights, in the order of the model's texts."""
    before: tuple[str, ...] = ()
    """Evaluate stages before this round's training; empty where nothing was trained."""
    looks: tuple[str, ...] = ()
    """Further stages that only look at the last weights."""
    round: int = 0
    num_rounds: int = 0
    path: tuple[float, ...] = ()
    """Sparsities that the branch passed through."""
    block: int = 0
    """Number of the first block of settings that asks for the cell."""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        coordinates = {
            "stage": self.stages[-1],
            "model": self.model,
            **values_of(self.point),
            "target": values_of(self.target),
        }
        object.__setattr__(self, "id", identity(coordinates))

    @property
    def method(self) -> str:
        """Pruning method, or `dense`."""
        return self.point.method

    @property
    def regime(self) -> str:
        """Regime, `dense` for the untrained dense model."""
        return self.point.regime

    @property
    def target(self) -> Target:
        """Sparsity or mask structure."""
        return self.point.target

    @property
    def seed(self) -> int | None:
        """Seed; None where nothing on the way to the cell draws."""
        return self.point.seed

    def all_stages(self) -> tuple[str, ...]:
        """Return every stage that this cell's rows are made of, the dense model first."""
        return (*self.stages, *self.before, *self.evaluations, *self.looks)

    def row_keys(self) -> tuple[str, ...]:
        """Return the keys of the cell's rows, in the order of `evaluations`."""
        return tuple(row_key(self.id, evaluation) for evaluation in self.evaluations)
