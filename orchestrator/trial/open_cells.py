"""The cells of a trial whose rows are not written yet, and the stages that each still lacks.

A stage that ends concerns only the cells that it is part of, so only these are looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from orchestrator.plan.cell import Cell


class OpenCells:
    """Hands out each cell once: when its last stage is stored, or when one of them has failed."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.parts: dict[str, list[Cell]] = {}
        """For each stage all cells that it is part of, open or not."""
        self.lacks: dict[str, set[str]] = {}
        """For each open cell the stages that it lacks."""
        for cell in cells:
            stages = dict.fromkeys(cell.all_stages())
            # The dense model comes first. It is read from its source and never stored.
            self.lacks[cell.id] = {*stages} - {cell.stages[0]}
            for stage in stages:
                self.parts.setdefault(stage, []).append(cell)
        self.shortest = {s: min(len(c.stages) for c in mine) for s, mine in self.parts.items()}
        """For each stage the length of the shortest cell that it is part of."""

    def take_stored(self, stages: Collection[str]) -> list[Cell]:
        """Return the cells that lack nothing more, now that these stages are stored."""
        touched = {cell.id: cell for stage in stages for cell in self.parts.get(stage, ())}
        complete = []
        for cell in touched.values():
            lacked = self.lacks.get(cell.id)
            if lacked is not None:
                self.lacks[cell.id] = {stage for stage in lacked if stage not in stages}
                if not self.lacks[cell.id]:
                    complete.append(cell)
        return self._take(complete)

    def take_ended(self, stage: str) -> list[Cell]:
        """Return the open cells that a stage is part of: it failed or was stopped."""
        return self._take(cell for cell in self.parts.get(stage, ()) if cell.id in self.lacks)

    def _take(self, cells: Iterable[Cell]) -> list[Cell]:
        """Return cells that are open no more."""
        taken = list(cells)
        for cell in taken:
            del self.lacks[cell.id]
        return taken
