"""One cell run again (`--from-row`): from the settings of its row, and compared with the row.

Everything is computed anew in a directory of its own below `repeats/`; the store is only read.
Equal bits are expected on the same machine with the same versions, workers and threads; 1e-6 is the
most that passes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import uuid
from dataclasses import dataclass, replace
from typing import Any

from core.checks import require
from core.models.sources import EMBEDDED
from core.paths import local_path, look_up
from orchestrator.config import ResourceConfig, SweepConfig
from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import row_key
from orchestrator.plan.trials import needed_stages
from orchestrator.results.record import recorded_models
from orchestrator.results.schema import EVALUATION_COLUMNS, SETTINGS_COLUMNS, Row
from orchestrator.store.store import Store

SAME = 1e-6
"""Relative difference of perplexity that passes where nothing but chance differs."""
OTHER_LOW, OTHER_HIGH, LOW_UP_TO = 0.002, 0.02, 0.6
"""Relative difference that passes for one-shot cells under other circumstances, by sparsity."""
CIRCUMSTANCES = (
    "code_version",
    "torch_version",
    "transformers_version",
    "ray_version",
    "num_workers",
    "machine",
    "threads",
    "micro_batch_tokens",
)
LATER = ("tf32", "attention", "processor")
"""Circumstances that earlier versions did not record."""
ALIKE = ("model", "method", "regime", "sparsity", "mask_structure", "round", "path")
ALIKE += ("num_finetune_tokens", "dtype", *SETTINGS_COLUMNS, *EVALUATION_COLUMNS)
"""Columns that are equal in rows whose perplexities differ by their seeds alone."""


@dataclass(frozen=True)
class Outcome:
    """One perplexity, recorded and computed again."""

    text: str
    recorded: float
    now: float
    allowed: float | None
    """Relative difference that passes; None where nothing says how much may differ."""

    @property
    def difference(self) -> float:
        """Relative difference; 0 for equal bits, infinite or NaN ones included."""
        if self.recorded == self.now or math.isnan(self.recorded) and math.isnan(self.now):
            return 0.0
        return abs(self.now - self.recorded) / abs(self.recorded)

    @property
    def passes(self) -> bool:
        """True if the difference is allowed, or if nothing says how much is."""
        return self.allowed is None or self.difference <= self.allowed

    def __str__(self) -> str:
        found = "equal bits" if self.difference == 0 else f"differs by {self.difference:.1e}"
        limit = "not judged" if self.allowed is None else f"{self.allowed:g} passes"
        end = "" if self.difference == 0 else f" ({limit})" if self.passes else f" (only {limit})"
        return f"{self.text}: perplexity {self.recorded!r}, now {self.now!r}: {found}{end}"


def repeat_row(config: SweepConfig, explicit: set[str]) -> int:
    """Run the cell that `--from-row` names again; return 1 if it comes out different.

    Args:
        config: settings of the command line: the row's place, and resources that differ.
        explicit: flags given there.

    Raises:
        ValueError: no such row, or its settings do not lead to the same cell any more.
    """
    from orchestrator import preparation
    from orchestrator import sweep as sweeps
    from orchestrator.inputs.tokens import save_tokens
    from orchestrator.out_dir import mark

    store = Store(config.output.out_dir)
    rows = find_rows(store, config.output.from_row or "")
    # A later run may have added texts, which settings of an earlier one do not know.
    newest = max(rows, key=lambda row: row["finished_at"])
    cell_id = newest["cell_id"]
    place = f"repeats/{cell_id[:12]}-{uuid.uuid4().hex[:6]}"
    settings = recorded_settings(config, newest, explicit, store.files.display(place))
    found = recorded_path(store, newest["model"])
    settings = replace(settings, grid=replace(settings.grid, models=(found,)))
    sweep = preparation.prepare(settings, repeated=store)
    cell = sweep.plan.cells.get(cell_id)
    remedy = (
        "its recorded settings lead to another cell now: the model, a text or the version of a "
        "method has changed since"
    )
    require(cell is not None, "from-row", cell_id, remedy)
    assert cell is not None
    needed = needed_stages(sweep.plan, [cell], set(), set())
    sweep = dataclasses.replace(sweep, cells=(cell,), needed=frozenset(needed))
    texts = preparation.read_texts(sweep)
    mark(sweep.store)
    preparation.write_record(sweep)
    save_tokens(sweep.store, texts.tokens)
    sweeps.run_rounds(sweep, texts)
    again = {row_key(cell.id, evaluation) for evaluation in cell.evaluations}
    for row in rows:
        if row_key(cell.id, row["_evaluation"]) not in again:
            print(f"{row['eval_text']}: not repeated; another run's settings evaluated on it")
    return compare_cell(cell, store, sweep.store)


def find_rows(store: Store, wanted: str) -> list[Row]:
    """Return the finished rows of the one cell whose id begins with `wanted`."""
    rows = [row for row in store.rows.read().values() if "_copy_of" not in row]
    found = [row for row in rows if wanted and row["cell_id"].startswith(wanted)]
    done = [row for row in found if row["status"] == "done"]
    remedy = f"{store.root} has {{}}; cell ids are a column of results.parquet"
    known = "no such cell" if not found else f"only a row that is {found[0]['status']}"
    require(bool(done), "from-row", wanted or "(empty)", remedy.format(known))
    several = len({row["cell_id"] for row in done})
    require(several == 1, "from-row", wanted, remedy.format(f"{several} cells that begin so"))
    return done


def recorded_settings(
    config: SweepConfig, row: Row, explicit: set[str], out_dir: str
) -> SweepConfig:
    """Return the settings that the row was run with; resources of the command line win."""
    recorded = SweepConfig.from_dict(json.loads(row["config"]))
    names = {field.name for field in dataclasses.fields(ResourceConfig)}
    given = {name: getattr(config.resources, name) for name in names & normal(explicit)}
    grid = replace(recorded.grid, models=(row["model"],), within=())
    known = {0.0, *(round(sparsity, 6) for sparsity in grid.sparsities)}
    sparsity, structure = row.get("sparsity", 0.0), row.get("mask_structure")
    if structure is None and round(sparsity, 6) not in known:
        # A search has asked for the cell: its path is the grid's up to it.
        steps = row["path"] if grid.schedule == "grid" else [sparsity]
        grid = replace(grid, sparsities=tuple(steps))
    return replace(
        recorded,
        grid=grid,
        resources=replace(recorded.resources, **given),
        output=replace(config.output, out_dir=out_dir, from_row=None, keep="final"),
    )


def recorded_path(store: Store, model: str) -> str:
    """Return the name of a row's model; its recorded path if the name leads nowhere from here."""
    if model != EMBEDDED and look_up("models", model, local_path("models", model)) is None:
        for known in recorded_models(store):
            path = known["path_or_repo"]
            if known["row_name"] == model and known["revision"] is None and os.path.isdir(path):
                return path
    return model


def normal(flags: set[str]) -> set[str]:
    """Return flags as field names."""
    return {flag.replace("-", "_") for flag in flags}


# Comparison ---------------------------------------------------------------------------------------


def compare_cell(cell: Cell, store: Store, again: Store) -> int:
    """Print recorded and repeated numbers, and the circumstances that changed."""
    stages = [*cell.stages[1:], *cell.evaluations]
    changes = (changed_circumstances(store, again, stage) for stage in stages)
    changed = list(dict.fromkeys(change for stage in changes for change in stage))
    print(f"\ncell {cell.id} again, {'; '.join(changed) or 'under the same circumstances'}")
    code = 0
    for evaluation in cell.evaluations:
        key = row_key(cell.id, evaluation)
        recorded, now = store.rows.get(key), again.rows.get(key)
        if recorded is None:
            continue
        if now is None or now["status"] != "done":
            print(f"{recorded['eval_text']}: failed now: {now and now['error']}")
            code = 1
            continue
        allowed = allowed_difference(store, recorded) if changed else SAME
        outcome = Outcome(recorded["eval_text"], recorded["perplexity"], now["perplexity"], allowed)
        print(outcome)
        code |= not outcome.passes
    if len(cell.stages) > 1:
        print(f"weights: {weights_story(store, again, cell.stages[-1])}")
    print(f"everything else of this run: {again.root}")
    return int(code)


def changed_circumstances(store: Store, again: Store, stage: str) -> list[str]:
    """Return the circumstances that differ between two runs of a stage, in words."""
    old, new = (
        (one.stages.at(stage).manifest() or {}).get("environment", {}) for one in (store, again)
    )
    told = [*CIRCUMSTANCES, *(name for name in LATER if name in old)]
    return [
        f"{name.replace('_', ' ')} {old.get(name, 'not recorded')} then, {new.get(name)} now"
        for name in told
        if old.get(name) != new.get(name)
    ]


def allowed_difference(store: Store, row: Row) -> float | None:
    """Return the difference that passes elsewhere: a fixed bound, or the spread over seeds."""
    if row["regime"] in ("oneshot", "dense"):
        return OTHER_LOW if row["sparsity"] <= LOW_UP_TO else OTHER_HIGH
    values = [
        other["perplexity"]
        for other in store.rows.read().values()
        if other["status"] == "done" and all(other.get(name) == row.get(name) for name in ALIKE)
    ]
    if len(values) < 2:
        return None
    return (max(values) - min(values)) / statistics.fmean(values)


def weights_story(store: Store, again: Store, stage: str) -> str:
    """Return in words if weights and masks have equal bits, by the hashes of their files."""
    files: list[dict[str, Any]] = [
        (one.stages.at(stage).manifest() or {}).get("files", {}) for one in (store, again)
    ]
    hashes = [
        {name: entry["sha256"] for name, entry in found.items() if name.endswith(".safetensors")}
        for found in files
    ]
    if not all(hashes):
        return "not kept, so not compared"
    return "equal bits" if hashes[0] == hashes[1] else "other bits"
