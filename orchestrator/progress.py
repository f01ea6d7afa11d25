"""What a person sees while a sweep runs: one line per finished cell, with the time left."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from ray.tune import Callback

from orchestrator.cell import Cell
from orchestrator.results import clock

# A sweep of more cells than this prints every nth, and each that failed.
MAX_LINES = 100


class Progress(Callback):
    """Prints finished cells as Tune hears of them."""

    def __init__(
        self, cells: dict[str, Cell], costs: dict[str, float], out: TextIO | None = None
    ) -> None:
        """Cells to come and their estimated seconds (of the stages that they alone add)."""
        self.cells, self.costs, self.out = cells, costs, out or sys.stdout
        self.seen: set[str] = set()
        self.start = time.monotonic()
        self.first: float | None = None

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Says which trial begins."""
        spec = trial.config["trial"]
        self.say(f"started  {spec['model']} {spec['method']}: {spec['num_cells']} cells")

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Prints a finished cell once, however often its trial was restarted."""
        cell_id = result.get("cell")
        if cell_id is None or cell_id in self.seen:
            return
        self.seen.add(cell_id)
        done, total = len(self.seen), len(self.cells)
        status = result["status"]
        if total > MAX_LINES and status == "done" and done % (total // MAX_LINES + 1):
            return
        target = result["mask_structure"] or f"{result['sparsity']:g}"
        if result["method"] == "dense":
            target = f"round {result['round']}" if result["round"] else ""
        what = f"{result['method']} {result['regime']} {target}"
        value = f"{result['perplexity']:.2f}" if status == "done" else status
        width = len(str(total))
        line = f"[{done:{width}}/{total}] {what:<32} {value:>10}  {self.time_left()}"
        if result["error"]:
            line += f"\n    {result['error']}"
        self.say(line)

    def time_left(self) -> str:
        """Seconds so far, and those to come by the estimated cost of what is left."""
        elapsed = time.monotonic() - self.start
        total = sum(self.costs.values())
        done = sum(self.costs.get(cell, 0.0) for cell in self.seen)
        if not done or len(self.seen) == len(self.cells):
            return f"{clock(elapsed)} so far"
        return f"{clock(elapsed)} so far, about {clock(elapsed * (total - done) / done)} left"

    def say(self, line: str) -> None:
        """Prints at once, also into a file."""
        print(line, file=self.out, flush=True)
