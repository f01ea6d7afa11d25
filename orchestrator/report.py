"""What a sweep tells: the dry run before, the Parquet file, the curves and the table after."""

from __future__ import annotations

import logging
import textwrap
from typing import TYPE_CHECKING, Any

from orchestrator import forecast
from orchestrator.changes import changes
from orchestrator.cost import GPUS
from orchestrator.curves import write_html
from orchestrator.details import details_of
from orchestrator.keep import kept_bytes
from orchestrator.progress import clock
from orchestrator.published import known_values
from orchestrator.record import copy_shared_rows, gather, labels_of, read_record, task_columns
from orchestrator.results import row_key, summary_table, write_parquet
from orchestrator.tasks import missing_runs

if TYPE_CHECKING:
    from orchestrator.inputs import ResolvedModel
    from orchestrator.sweep import Sweep
    from orchestrator.trials import Trial

logger = logging.getLogger(__name__)


def collect(sweep: Sweep) -> int:
    """Rebuilds results.parquet and curves.html from all rows; prints the table.

    Returns:
        1 while a cell of the grid has failed or is missing, else 0.
    """
    record = read_record(sweep.store, sweep.id)
    labels = labels_of(record)
    copy_shared_rows(sweep.store, labels or {})
    rows = gather(sweep.store.rows(), labels, task_columns(sweep.store.stages()))
    mine = [row for row in rows if row["in_current_grid"]]
    store = sweep.store
    remote = None if store.is_local else store.filesystem
    write_parquet(rows, store.join("results.parquet"), remote)
    provenance = {"command to reproduce": record["command"]}
    details = details_of(mine, lambda stage: manifest_of(sweep, stage))
    write_html(
        rows,
        store.join("curves.html"),
        details=details,
        published=known_values(sweep.config.output.published),
        provenance=provenance,
        filesystem=remote,
    )
    print()
    print(summary_table(mine))
    bad = [row for row in mine if row["status"] in ("failed", "not_run")]
    missing = len(sweep.plan.row_keys()) - len(mine)
    print(failures(bad), end="")
    stopped = sum(row["status"] == "stopped" for row in mine)
    if stopped:
        print(f"{stopped} rows given up on by --stop-perplexity")
    if bad or missing:
        print(f"{len(bad) + missing} rows failed or missing; run the same command again")
        print("(--retry-failed also runs cells again that failed by themselves)")
    print(f"rows    {store.display('results.parquet')}")
    print(f"curves  {store.display('curves.html')}")
    return 1 if bad or missing else 0


def failures(bad: list[dict[str, Any]], most: int = 10) -> str:
    """A few lines for each cell that failed, at most `most` cells."""
    failed = [row for row in bad if row["status"] == "failed"]
    lines = []
    for row in failed[:most]:
        target = row["mask_structure"] or f"{row['sparsity']:g}"
        text = f"failed: {row['method']} {row['regime']} {target}: {row['error']}"
        lines += textwrap.wrap(text, 79, subsequent_indent="    ", max_lines=3)
    if len(failed) > most:
        lines.append(f"and {len(failed) - most} more; all errors are in curves.html")
    return "".join(f"{line}\n" for line in lines)


def manifest_of(sweep: Sweep, stage: str) -> dict[str, Any] | None:
    """A stage's manifest: as it came to be in this run, or as it was before."""
    fresh = sweep.store.manifest("stages", stage) if stage in sweep.needed else None
    return fresh or sweep.manifests.get(stage)


def describe_plan(sweep: Sweep, trials: list[Trial]) -> str:
    """The dry run: cells, what is done and why the rest is not, trials, memory and time."""
    plan, to_run = sweep.plan, {cell.id for cell in sweep.cells}
    lines = [
        f"{len(plan.cells)} cells, {len(plan.cells) - len(to_run)} already done; "
        f"{len(sweep.needed)} stages to run of {len(plan.stages)}"
    ]
    lines += [damage(sweep, stage) for stage in sweep.damaged]
    for cell in plan.cells.values():
        target = cell.target.mask_structure or f"{cell.target.sparsity:g}"
        seed = "" if cell.seed is None else f" seed {cell.seed}"
        name = f"{cell.model} {cell.method} {cell.regime} {target}{seed}"
        state = why(sweep, cell) if cell.id in to_run else found(sweep, cell)
        lines.append(f"  {name:<52} {state}")
    lines.append(f"{len(trials)} trials")
    if sweep.config.eval.tasks:
        lines.append(f"{len(missing_runs(sweep))} task evaluations")
    for trial in trials:
        seconds = sum(sweep.seconds[stage.id] for stage in trial.stages)
        lines.append(
            f"  {trial.model} {trial.method}: {len(trial.cells)} cells, "
            f"{len(trial.stages)} stages, about {clock(seconds)}"
        )
    for model in sweep.models:
        lines += ["", *describe_model(sweep, model)]
    return "\n".join(lines)


def damage(sweep: Sweep, stage: str) -> str:
    """What is wrong with a stored stage, and what a run will do about it."""
    fate = sweep.store.put_away + (" and computed again" if stage in sweep.needed else "")
    return f"  stages/{stage} is damaged ({sweep.damaged[stage]}): to be {fate}"


def describe_model(sweep: Sweep, model: ResolvedModel) -> list[str]:
    """What one model of a sweep will take."""
    resources, trains = sweep.config.resources, sweep.config.grid.trains
    cost = sweep.costs[model.inputs.name]
    stages = [s for s in sweep.plan.stages.values() if s.model == model.inputs.name]
    lines = [
        f"{model.inputs.name}: {model.facts.num_parameters:,} parameters, {model.inputs.dtype}"
        + (f", trained in {model.inputs.training_dtype}" if trains else "")
    ]
    workers = resources.num_workers
    lines += forecast.memory_lines(cost, trains, workers, sweep.micro_batch_tokens)
    timed = forecast.on_this_machine(model, cost)
    costs = {} if timed is None else {"here": timed}
    costs |= {name: forecast.on_gpu(cost, name) for name in GPUS}
    to_run = [stage for stage in stages if stage.id in sweep.needed]
    price = sweep.config.resources.price_per_gpu_hour
    lines += forecast.work_lines(costs, to_run, sweep.eval_tokens, trains, price)
    kept = kept_bytes(stages, sweep.costs, sweep.dropped)
    return [*lines, f"  kept models: {kept / 2**30:.2f} GiB of disk"]


def found(sweep: Sweep, cell: Any) -> str:
    """What came of a cell that is not to run again."""
    row = sweep.rows[row_key(cell.id, cell.evaluations[0])]
    return row["status"].replace("_", " ")


def why(sweep: Sweep, cell: Any) -> str:
    """Why a cell is not done yet, in a few words."""
    rows = [sweep.rows.get(row_key(cell.id, evaluation)) for evaluation in cell.evaluations]
    present = [row for row in rows if row is not None]
    if present and present[0]["status"] == "done":
        return "a stage of it is gone; to run again"
    if present:
        return f"{present[0]['status']} before; to run again"
    missing = [stage for stage in cell.all_stages()[1:] if stage in sweep.needed]
    dropped = [stage for stage in missing if stage in sweep.manifests]
    text = f"{len(missing)} stages to run"
    if dropped:
        text += f", {len(dropped)} of them again (weights not kept)"
    changed = changes(sweep.plan, cell, set(missing) - set(dropped), sweep.manifests)
    return f"{text}: {', '.join(changed)}" if changed else text
