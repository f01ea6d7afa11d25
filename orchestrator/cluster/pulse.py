"""The pulse of a running sweep: a small file in the store by which others watch the sweep.

`pulse/ID.json` says when the sweep was last alive, which cells it works on and how long the rest
will take. Finished cells are not in it: their rows are in the store already.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune import Callback

from orchestrator.cluster.time_left import TimeLeft
from orchestrator.plan.trials import Trial
from orchestrator.store.store import PULSES, Store

logger = logging.getLogger(__name__)
SECONDS = 5.0
"""Time between two beats if nothing else happens."""


class Pulse(Callback):
    """Writes the pulse as long as Tune runs trials."""

    def __init__(
        self,
        store: Store,
        sweep_id: str,
        trials: Iterable[Trial],
        costs: Mapping[str, float],
        attempt: str | None = None,
    ) -> None:
        """Take the trials to come and the estimated seconds that each of their cells adds."""
        self.store, self.name, self.left = store, f"{sweep_id}.json", TimeLeft(costs)
        self.attempt = attempt
        trials = list(trials)
        self.cells = {trial.id: walking_order(trial) for trial in trials}
        self.names = {trial.id: name_of(trial) for trial in trials}
        self.running: list[str] = []
        self.start, self.last = time.time(), 0.0
        self.beat()

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Note that a trial begins, or begins again after a lost process."""
        trial_id = trial.config["trial"]["id"]
        if trial_id not in self.running:
            self.running.append(trial_id)
        self.beat()

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note that a cell is finished."""
        if "cell" in result:
            self.left.finish(result["cell"])
        self.beat()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Note that a trial has ended."""
        trial_id = trial.config["trial"]["id"]
        self.running = [other for other in self.running if other != trial_id]
        self.beat()

    on_trial_error = on_trial_complete

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        """Beat if the last beat is old; Tune calls this all the time."""
        if time.time() - self.last >= SECONDS:
            self.beat()

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        """Write the last beat: all trials have ended, or somebody pressed Ctrl-C."""
        self.running = []
        self.beat(ended=True)

    def beat(self, ended: bool = False) -> None:
        """Write the file; a store that takes no files fails elsewhere with a better message."""
        self.last = time.time()
        data = {
            "started_at": self.start,
            "seen_at": self.last,
            "ended": ended,
            "attempt": self.attempt,
            "running": self.current_cells(),
            "trials": [self.state_of(trial_id) for trial_id in self.running],
            "seconds_left": self.left.seconds(),
        }
        try:
            self.store.files.write_bytes(json.dumps(data).encode(), PULSES, self.name)
        except OSError as error:
            logger.warning("the sweep's pulse cannot be written: %s", error)

    def current_cells(self) -> list[str]:
        """Return the next unfinished cell of each running trial."""
        found = [next(iter(self.rest_of(trial_id)), None) for trial_id in self.running]
        return [cell for cell in found if cell is not None]

    def rest_of(self, trial_id: str) -> list[str]:
        """Return the cells of a trial that are not finished, the next one first."""
        return [cell for cell in self.cells.get(trial_id, []) if cell not in self.left.seen]

    def state_of(self, trial_id: str) -> dict[str, Any]:
        """Return a running trial's name, its number of cells, and how many are finished."""
        count, rest = len(self.cells.get(trial_id, [])), self.rest_of(trial_id)
        known = {"name": self.names.get(trial_id, trial_id), "cells": count}
        return known | {"done": count - len(rest), "now": next(iter(rest), None)}


def name_of(trial: Trial) -> str:
    """Return the model and methods of a trial, as people read them."""
    methods = sorted({cell.method for cell in trial.cells} - {"dense"})
    return f"{trial.model}: {', '.join(methods) or 'dense'}"


def walking_order(trial: Trial) -> list[str]:
    """Return a trial's cells in the order in which the walk over its stages finishes them."""
    at = {stage.id: i for i, stage in enumerate(trial.stages)}

    def finished(stages: tuple[str, ...]) -> int:
        return max((at[stage] for stage in stages if stage in at), default=-1)

    return [c.id for c in sorted(trial.cells, key=lambda cell: finished(cell.all_stages()))]
