"""What a worker group is told: one trial as plain values, whole without the plan it came from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from core.targets import Target
from orchestrator.plan.cell import Cell
from orchestrator.plan.stages import Stage


@dataclass(frozen=True)
class Job:
    """One trial, ready to cross to workers as a dict."""

    id: str
    model: str
    method: str
    root: str
    """Id of the dense stage."""
    stages: tuple[Stage, ...]
    """To run, parents first."""
    known: tuple[Stage, ...]
    """Those and all others that the cells are made of."""
    cells: tuple[Cell, ...]
    source: dict[str, Any]
    """Fields of core's ModelSource."""
    dtype: str
    """Of calibration and evaluation."""
    store_root: str
    drop: tuple[str, ...]
    """Stages whose weights go once no stage starts from them."""
    device: str
    num_workers: int
    threads: int
    micro_batch_tokens: int
    checkpoint_seconds: float
    timeout_seconds: float
    """Longest wait for a place, for other ranks, for a report and for a sign of life."""
    stop_perplexity: float | None
    """Above this, nothing goes on from the weights."""
    memory_bytes: float
    """Estimated peak of a worker."""
    row_constants: dict[str, Any]
    """Columns that every row of the sweep shares."""
    environment: dict[str, Any]
    """Versions and machine, recorded with every stage."""
    activation_checkpointing: bool = False
    """Whether training runs blocks again instead of keeping their activations."""
    cpu_offload: bool = False
    """Whether shards stay in host memory."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for Ray."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        """The inverse of `to_dict`."""
        lists = {name: tuple(Stage(**stage) for stage in values[name]) for name in STAGE_LISTS}
        cells = tuple(
            Cell(
                **{
                    **cell,
                    "target": Target(**cell["target"]),
                    **{name: tuple(cell[name]) for name in CELL_LISTS},
                }
            )
            for cell in values["cells"]
        )
        return cls(**{**values, **lists, "cells": cells, "drop": tuple(values["drop"])})

    def stage(self, stage_id: str) -> Stage:
        """A stage that a cell of this job is made of."""
        return next(stage for stage in self.known if stage.id == stage_id)

    def sparsity_of(self, stage_id: str | None) -> float:
        """Sparsity of the last prune stage up to a stage, 0 for the dense model."""
        while stage_id is not None:
            stage = self.stage(stage_id)
            if stage.kind == "prune":
                return stage.fields["sparsity"]
            stage_id = stage.parent
        return 0.0


STAGE_LISTS = ("stages", "known")
CELL_LISTS = ("stages", "evaluations", "before", "path")
