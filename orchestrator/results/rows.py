"""One row of results, from what the store says of a cell's stages."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.measures.likelihood import perplexity_per
from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import row_key
from orchestrator.plan.job import Job
from orchestrator.plan.kinds import Evaluate, Finetune, Joint, Prune
from orchestrator.plan.stages import stage_identity
from orchestrator.plan.training_kinds import trained_rounds
from orchestrator.results import versions
from orchestrator.results.bought import bytes_columns, speed_columns
from orchestrator.store.rows import Rows

FindManifest = Callable[[str], dict[str, Any] | None]
"""Manifest of a stage by its id; None for a stage that is not stored."""
CIRCUMSTANCES = ("num_workers", "device", "machine", "code_version", "torch_version")
CIRCUMSTANCES += ("transformers_version", "ray_version")
"""Columns of a row that the manifest of its evaluation holds."""
FAILED_SINCE = "_failed"
"""Name under which a done row says how a later attempt at its cell ended, if that failed."""
LABELS = ("protocol", "eval_text")
"""Columns that the sweep decides and that no stage knows."""
TRAINING_COLUMNS = ("objective", "distill", "trainable", "lora_rank")
ADAPTIVE_METRICS = ("objective", "lr", "gap_before", "gap_after", "taken_back")


@dataclass(frozen=True)
class Outcome:
    """Outcome of a cell."""

    status: str
    """`done`, `failed`, `not_run` or `stopped`."""
    error: str | None = None
    """One line; None unless something failed or was given up on."""
    interrupted: bool = False
    """True if a lost process, not the work itself, was at fault."""
    stopped_at: float | None = None
    """The perplexity that a stopped cell was given up at."""


def put_row(rows: Rows, key: str, row: dict[str, Any]) -> None:
    """Write the row of this attempt. Only a done row replaces a done row.

    A cell that is done may run again, for example because its weights are asked for. If it fails
    then, its row keeps the numbers and notes the failure. A sweep that gives the row other labels
    leaves a copy under the earlier ones.
    """
    before = rows.get(key)
    if before is not None and before.get("status") == "done" and row["status"] != "done":
        noted = {name: row[name] for name in ("status", "error", "_interrupted")}
        row = {**before, "_attempt": row["_attempt"], FAILED_SINCE: noted}
    elif before is not None and labels_in(before) != labels_in(row):
        put_copy(rows, key, before)
    rows.put(key, row)


def labels_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what sweeps may call a row in different ways."""
    return {name: row.get(name) for name in LABELS}


def put_copy(rows: Rows, key: str, copy: Mapping[str, Any]) -> None:
    """Write a copy of the row of this key under the labels that it has."""
    name = row_key(key, json.dumps(labels_in(copy), sort_keys=True))
    rows.put(name, {**copy, "_copy_of": key})


def last_outcome(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `status`, `error` and `_interrupted` of the last attempt at a row's cell."""
    return row.get(FAILED_SINCE, row)


def build_row(
    job: Job, cell: Cell, evaluation: str, manifest: FindManifest, outcome: Outcome
) -> dict[str, Any]:
    """Return the row of a cell and one evaluation; names with an underscore stay in the store.

    Args:
        job: the trial that the cell belongs to.
        cell: the cell.
        evaluation: its evaluate stage.
        manifest: finds manifests.
        outcome: what became of the cell.
    """
    steps = {s: manifest(s) for s in (*cell.stages[1:], evaluation)}
    metrics = {s: m["metrics"] for s, m in steps.items() if m is not None}
    row = {
        **run_columns(job, cell),
        **circumstance_columns(job, manifest(evaluation)),
        **calibration_columns(job, cell, metrics),
        **seconds_columns(job, metrics),
        **training_columns(job, cell, metrics),
        **cell_columns(cell),
        **weights_columns(job, cell, metrics, evaluation),
        **{k: v for look in cell.looks for k, v in speed_columns(manifest(look)).items()},
        **evaluation_columns(job, cell, evaluation, manifest),
        "status": outcome.status,
        "error": outcome.error,
        "peak_memory_bytes": max(
            (m["peak_memory_bytes"] for m in metrics.values() if "peak_memory_bytes" in m),
            default=None,
        ),
        "_evaluation": evaluation,
        # The stage that evaluates the dense model alike, planned in this sweep or not.
        "_dense_evaluation": stage_identity(job.stage(evaluation).work, job.root.id),
        "_interrupted": outcome.interrupted,
        "_attempt": job.run.attempt,
    }
    return row if outcome.stopped_at is None else {**row, "_stopped_at": outcome.stopped_at}


def run_columns(job: Job, cell: Cell) -> dict[str, Any]:
    """Return the settings of the cell's block, and what every row of the sweep shares."""
    return {
        "config": job.run.configs[cell.block],
        "sweep_id": job.run.sweep_id,
        "in_current_grid": True,
    }


def circumstance_columns(job: Job, evaluated: dict[str, Any] | None) -> dict[str, Any]:
    """Return versions and hardware, as the process recorded them that evaluated the cell.

    Args:
        job: the trial.
        evaluated: the manifest of the evaluation; without one this process tells of itself.
    """
    here = {"num_workers": job.workers.num_workers, "device": job.workers.device}
    if evaluated is None:
        return {**here, **versions.environment(), "machine": None}
    recorded = {**here, **evaluated.get("environment", {})}  # Earlier versions told no device.
    found = {name: recorded.get(name) for name in CIRCUMSTANCES}
    return {**found, "environment": json.dumps(recorded, sort_keys=True)}


def cell_columns(cell: Cell) -> dict[str, Any]:
    """Return the coordinates and settings of a cell."""
    return {
        "cell_id": cell.id,
        "model": cell.model,
        "method": cell.method,
        "mask_structure": cell.target.mask_structure,
        "regime": cell.regime,
        "sparsity": cell.target.sparsity,
        "seed": cell.seed,
        "protocol": cell.settings.protocol,
        "schedule": cell.settings.schedule,
        "budget": cell.settings.budget,
        "round": cell.round,
        "num_rounds": cell.num_rounds,
        "path": list(cell.path),
    }


def weights_columns(
    job: Job, cell: Cell, metrics: dict[str, Any], evaluation: str
) -> dict[str, Any]:
    """Return what is known of a cell's last weights."""
    last, is_dense = metrics.get(cell.stages[-1], {}), len(cell.stages) == 1
    dtype = last.get("dtype", job.root.fields["dtype"])
    known = metrics.get(evaluation, {}) if last or is_dense else {}
    return {
        **bytes_columns(last, known, dtype),
        "measured_sparsity": last.get("measured_sparsity", 0.0 if is_dense else None),
        "measured_sparsity_worst": last.get("measured_sparsity_worst"),
        "num_pruned": last.get("num_pruned"),
        "num_prunable": last.get("num_prunable"),
        "dtype": dtype,
        "stage_id": cell.stages[-1],
        "stage_dir": None if is_dense else f"stages/{cell.stages[-1]}",
    }


def evaluation_columns(
    job: Job, cell: Cell, evaluation: str, manifest: FindManifest
) -> dict[str, Any]:
    """Return text, windows and perplexities of one evaluation."""
    work = job.stage(evaluation).work
    assert isinstance(work, Evaluate)
    found = manifest(evaluation) or {}
    result = found.get("metrics", {})
    before = cell.before[cell.evaluations.index(evaluation)] if cell.before else None
    earlier = manifest(before) if before is not None else None
    finished = result.get("finished_at", datetime.datetime.now(datetime.UTC).timestamp())
    return {
        "eval_text": work.text.name,
        "eval_seq_len": work.text.seq_len,
        "eval_stride": work.text.stride,
        **({"window_start": "bos"} if work.text.bos else {}),
        "perplexity": result.get("perplexity"),
        "nll": result.get("nll"),
        "num_eval_tokens": result.get("num_tokens"),
        **unit_columns(result),
        "perplexity_before_finetune": (
            None if earlier is None else earlier["metrics"]["perplexity"]
        ),
        "finished_at": datetime.datetime.fromtimestamp(finished, datetime.UTC).isoformat(),
    }


def calibration_columns(job: Job, cell: Cell, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return method settings, and calibration text and tokens, of the last prune stage."""
    works = [(s, job.stage(s).work) for s in cell.stages]
    prunes = [(s, work) for s, work in works if isinstance(work, Prune)]
    found: dict[str, Any] = {}
    if prunes:
        last = prunes[-1][1]
        found |= last.fields()["settings"]
        if last.calibration is not None and last.calibration.experts is not None:
            found |= last.calibration.experts.options()
    for _, work in works:
        if isinstance(work, Joint):
            found |= work.shown()
    settings = json.dumps(found, sort_keys=True)
    if not prunes:
        return {"method_settings": settings}
    stage_id, work = prunes[-1]
    columns = {
        "method_settings": settings,
        "dampening_frac_used": metrics.get(stage_id, {}).get("dampening_frac"),
    }
    if work.calibration is None:
        return columns
    return {
        **columns,
        "calibration_text": work.calibration.name,
        "calibration_tokens": work.calibration.num_tokens,
        "calibration_seq_len": work.calibration.seq_len,
    }


def training_columns(job: Job, cell: Cell, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens of all rounds, the last rate, and what differs from plain training."""
    works = [(s, job.stage(s).work) for s in cell.stages]
    rounds = [(s, each) for s, work in works for each in trained_rounds(work)]
    counts = [metrics.get(s, {}).get("num_tokens", 0) for s, _ in rounds]
    tokens = sum(counts)
    if not rounds:
        return {"num_finetune_tokens": tokens}
    tried = sum(n * work.training.num_trainings for n, (_, work) in zip(counts, rounds))
    stage_id, work = rounds[-1]
    fields, rates = work.training.fields(), work.training.lrs
    settings = {name: fields[name] for name in TRAINING_COLUMNS if name in fields}
    if len(rates) == 1 and not work.training.adapts:
        chosen = rates[0]
    else:
        settings |= {"lr": fields["lr"]} if rates else {}
        chosen = metrics.get(stage_id, {}).get("lr")
    done = [metrics[s] for s, work in rounds if work.training.adapts and s in metrics]
    told = [{key: each[key] for key in ADAPTIVE_METRICS if key in each} for each in done]
    return {
        "num_finetune_tokens": tokens,
        "finetune_lr": chosen,
        "finetune_settings": json.dumps(settings, sort_keys=True) if settings else None,
        **({"num_tried_tokens": tried} if tried != tokens else {}),
        **({"finetune_rounds": json.dumps(told)} if told else {}),
    }


def unit_columns(result: dict[str, Any]) -> dict[str, Any]:
    """Return perplexity a word and a byte, where they were counted."""
    columns = {}
    for unit in ("word", "byte"):
        count = result.get(f"num_{unit}s")
        columns[f"num_eval_{unit}s"] = count
        columns[f"{unit}_perplexity"] = perplexity_per(
            count, result.get("nll"), result.get("num_tokens")
        )
    return columns


def seconds_columns(job: Job, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of each kind over the cell's whole history."""
    kinds = (Prune.kind, Finetune.kind, Evaluate.kind)
    seconds: dict[str, float] = {f"{kind}_seconds": 0 for kind in kinds}
    for stage_id, each in metrics.items():
        work = job.stage(stage_id).work
        seconds[work.seconds_column or f"{work.kind}_seconds"] += each["seconds"]
    return seconds
