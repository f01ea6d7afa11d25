"""One row of results from what the store says of a cell's stages."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

from core.measures.likelihood import perplexity_per
from orchestrator.plan.cell import Cell
from orchestrator.plan.identity import stage_identity
from orchestrator.plan.job import Job

Manifest = Callable[[str], dict[str, Any] | None]


def build_row(
    job: Job,
    cell: Cell,
    evaluation: str,
    manifest: Manifest,
    status: str,
    error: str | None,
    interrupted: bool = False,
) -> dict[str, Any]:
    """The row of a cell and one evaluation; names with an underscore stay in the store.

    Args:
        job: the trial that the cell belongs to.
        cell: the cell.
        evaluation: its evaluate stage.
        manifest: manifests of stages by id, None for a stage that is not stored.
        status: done, failed, not_run or stopped.
        error: one line, None unless something failed.
        interrupted: whether a lost process, not the work itself, was at fault.
    """
    steps = {s: manifest(s) for s in (*cell.stages[1:], evaluation)}
    metrics = {s: m["metrics"] for s, m in steps.items() if m is not None}
    last = metrics.get(cell.stages[-1], {})
    result = metrics.get(evaluation, {})
    window = job.stage(evaluation).fields["text"]
    before = cell.before[cell.evaluations.index(evaluation)] if cell.before else None
    before_manifest = manifest(before) if before is not None else None
    finished = result.get("finished_at", datetime.datetime.now(datetime.UTC).timestamp())
    return {
        **job.row_constants,
        **calibration_columns(job, cell, metrics),
        **seconds_columns(job, cell, metrics),
        **recovery_columns(job, cell, metrics),
        "cell_id": cell.id,
        "model": cell.model,
        "method": cell.method,
        "mask_structure": cell.target.mask_structure,
        "regime": cell.regime,
        "sparsity": cell.target.sparsity,
        "measured_sparsity": last.get("measured_sparsity", 0.0 if len(cell.stages) == 1 else None),
        "measured_sparsity_worst": last.get("measured_sparsity_worst"),
        "num_pruned": last.get("num_pruned"),
        "num_prunable": last.get("num_prunable"),
        "seed": cell.seed,
        "eval_text": job.stage(evaluation).text,
        "eval_seq_len": window["seq_len"],
        "eval_stride": window["stride"],
        "perplexity": result.get("perplexity"),
        "nll": result.get("nll"),
        "num_eval_tokens": result.get("num_tokens"),
        **unit_columns(result),
        "perplexity_before_finetune": (
            None if before_manifest is None else before_manifest["metrics"]["perplexity"]
        ),
        "num_finetune_tokens": sum(m.get("num_tokens", 0) for m in of_kind(job, metrics, TRAIN)),
        "round": cell.round,
        "num_rounds": cell.num_rounds,
        "schedule": job.row_constants["schedule"] if cell.regime == "iterative" else None,
        "budget": job.row_constants["budget"] if TRAIN in kinds(job, cell) else None,
        "path": list(cell.path),
        "dtype": last.get("dtype", job.dtype),
        "status": status,
        "error": error,
        "stage_id": cell.stages[-1],
        "stage_dir": None if len(cell.stages) == 1 else f"stages/{cell.stages[-1]}",
        "peak_memory_bytes": max(
            (m["peak_memory_bytes"] for m in metrics.values() if "peak_memory_bytes" in m),
            default=None,
        ),
        "machine": (steps[evaluation] or {}).get("environment", {}).get("machine"),
        "finished_at": datetime.datetime.fromtimestamp(finished, datetime.UTC).isoformat(),
        "_evaluation": evaluation,
        "_dense_evaluation": dense_evaluation(job, evaluation),
        "_interrupted": interrupted,
    }


def dense_evaluation(job: Job, evaluation: str) -> str:
    """Id of the stage that evaluates the dense model alike, planned in this sweep or not."""
    return stage_identity("evaluate", job.root, job.stage(evaluation).fields)


TRAIN = "finetune"
RECOVERY_FIELDS = ("objective", "distill", "trainable", "lora_rank")


def kinds(job: Job, cell: Cell) -> set[str]:
    """Kinds of stages on the way to a cell."""
    return {job.stage(stage).kind for stage in cell.stages}


def of_kind(job: Job, metrics: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Metrics of the stages of one kind."""
    return [m for stage, m in metrics.items() if job.stage(stage).kind == kind]


def calibration_columns(job: Job, cell: Cell, metrics: dict[str, Any]) -> dict[str, Any]:
    """Method settings, and calibration text and tokens, of the last prune stage."""
    prunes = [job.stage(s) for s in cell.stages if job.stage(s).kind == "prune"]
    if not prunes:
        return {"method_settings": "{}"}
    last = prunes[-1]
    columns = {
        "method_settings": json.dumps(last.fields["settings"], sort_keys=True),
        "dampening_frac_used": metrics.get(last.id, {}).get("dampening_frac"),
    }
    if "calibration" not in last.fields:
        return columns
    spec = last.fields["calibration"]
    return {
        **columns,
        "calibration_text": last.text,
        "calibration_tokens": spec["num_samples"] * spec["seq_len"],
        "calibration_seq_len": spec["seq_len"],
    }


def recovery_columns(job: Job, cell: Cell, metrics: dict[str, Any]) -> dict[str, Any]:
    """The last round's learning rate, and what differs from plain training, as JSON."""
    rounds = [job.stage(s) for s in cell.stages if job.stage(s).kind == TRAIN]
    if not rounds:
        return {}
    fields = rounds[-1].fields
    rates = fields["lr"]
    several = isinstance(rates, list)
    settings = {name: fields[name] for name in RECOVERY_FIELDS if name in fields}
    settings |= {"lr": rates} if several else {}
    chosen = metrics.get(rounds[-1].id, {}).get("lr") if several else rates
    return {
        "finetune_lr": chosen,
        "finetune_settings": json.dumps(settings, sort_keys=True) if settings else None,
    }


def unit_columns(result: dict[str, Any]) -> dict[str, Any]:
    """Perplexity a word and a byte, where they were counted."""
    columns = {}
    for unit in ("word", "byte"):
        count = result.get(f"num_{unit}s")
        columns[f"num_eval_{unit}s"] = count
        columns[f"{unit}_perplexity"] = perplexity_per(
            count, result.get("nll"), result.get("num_tokens")
        )
    return columns


def seconds_columns(job: Job, cell: Cell, metrics: dict[str, Any]) -> dict[str, Any]:
    """Seconds by kind over the cell's whole history."""
    return {
        f"{kind}_seconds": sum(m["seconds"] for m in of_kind(job, metrics, kind))
        for kind in ("prune", TRAIN, "evaluate")
    }
