"""Progress on the terminal: one line for each finished cell, with the time left.

The text is plain ASCII within 80 columns, without colour and without overwriting, so a log file
reads like the terminal. A large sweep prints every nth cell and each error once.
"""

from __future__ import annotations

import sys
import textwrap
from typing import Any, TextIO

from ray.tune import Callback

from orchestrator.cluster.room import WAITING
from orchestrator.cluster.time_left import TimeLeft
from orchestrator.plan.cell import Cell
from orchestrator.results.names import CellName
from orchestrator.results.numbers import clock

WIDTH = 80
MAX_LINES = 60
"""About as many cells get a line; in a larger sweep every nth cell does."""
MAX_ERRORS = 10
"""Most failed cells that get a line with their error; the last table and the page list all."""


class Progress(Callback):
    """Prints each finished cell when its trial reports it."""

    def __init__(
        self, cells: dict[str, Cell], costs: dict[str, float], out: TextIO | None = None
    ) -> None:
        """Take the cells to come and the estimated seconds that each of them adds."""
        self.cells, self.left, self.out = cells, TimeLeft(costs), out or sys.stdout
        self.failed: set[str] = set()
        self.errors: set[str] = set()
        self.every = -(-len(cells) // MAX_LINES)
        self.many_models = len({cell.model for cell in cells.values()}) > 1
        self.many_seeds = len({cell.seed for cell in cells.values()} - {None}) > 1
        self.longest = max((len(self.name(cell)) for cell in cells.values()), default=0)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Print which trial begins, unless there are many."""
        spec = trial.config["trial"]
        if len(trials) * 5 <= MAX_LINES:
            count = spec["num_cells"]
            cells = "1 cell" if count == 1 else f"{count} cells"
            self.say(f"started  {fitted(spec['model'], WIDTH - 30)}: {cells}")

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Print a finished cell once, even if its trial starts again and reports it again."""
        if WAITING in result:
            line = fitted(result[WAITING], WIDTH - 20)
            self.say(f"{fitted(trial.config['trial']['model'], WIDTH - 2 - len(line))}: {line}")
        cell_id = result.get("cell")
        if cell_id is None or cell_id in self.left.seen:
            return
        self.left.finish(cell_id)
        if result["status"] == "failed":
            self.failed.add(cell_id)
        done, total = len(self.left.seen), len(self.cells)
        told = result["status"] == "failed" and len(self.failed) <= MAX_ERRORS
        if told or done % self.every == 0 or done == total:
            self.say(self.line(cell_id, result))
        if told and result["error"] not in self.errors:
            self.errors.add(result["error"])
            wrapped = textwrap.wrap(ascii(result["error"])[1:-1], WIDTH - 4, max_lines=3)
            self.say("\n".join("    " + line for line in wrapped))

    def line(self, cell_id: str, result: dict[str, Any]) -> str:
        """Return a line such as `[ 4/38] sparsegpt iterative 0.7     23.40  33s left`."""
        total = str(len(self.cells))
        count = f"[{len(self.left.seen):{len(total)}}/{total}] "
        done = result["status"] == "done"
        value = number(result["perplexity"]) if done else result["status"].replace("_", " ")
        end = f" {value:>8}  {self.time_left()}"
        if self.failed and done:
            end += f", {len(self.failed)} failed"
        room = min(self.longest, WIDTH - len(count) - 34)
        return f"{count}{self.name(self.cells[cell_id], room):<{room}}{end}"

    def name(self, cell: Cell, room: int = WIDTH) -> str:
        """Return what tells a cell from the others of this sweep, within `room` columns."""
        name = ascii(CellName.of_cell(cell).short)[1:-1]
        if self.many_seeds and cell.seed is not None:
            name += f" s{cell.seed}" if self.many_models else f" seed {cell.seed}"
        if self.many_models:
            model = ascii(cell.model.rstrip("/").rpartition("/")[2])[1:-1]
            name = f"{fitted(model, max(5, room - len(name) - 1))} {name}"
        return fitted(name, room)

    def time_left(self) -> str:
        """Return the time left, or the time that has gone by where nothing tells the pace."""
        if len(self.left.seen) == len(self.cells):
            return f"in {clock(self.left.elapsed())}"
        seconds = self.left.seconds()
        if seconds is None:
            return f"{clock(self.left.elapsed())} so far"
        return f"{clock(seconds)} left"

    def say(self, line: str) -> None:
        """Print without a delay, also into a file."""
        print(line, file=self.out, flush=True)


def number(perplexity: float) -> str:
    """Return a perplexity within eight columns."""
    return f"{perplexity:.2f}" if perplexity < 99_999.5 else f"{perplexity:.2e}"


def fitted(text: str, width: int) -> str:
    """Return the text, without its middle if it is longer than `width`."""
    if len(text) <= width:
        return text
    half = (width - 2) // 2
    return f"{text[: width - 2 - half]}..{text[len(text) - half :]}"
