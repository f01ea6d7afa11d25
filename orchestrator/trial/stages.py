"""Prune, finetune, evaluate: what each kind of stage does with its parent's weights.

Collective. Called by walk.py with a stage whose parent is stored; publishes the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from core.activations import Calibration
from core.allocation import allocate, outlier_ratios
from core.config import PruneConfig
from core.measures.counts import scored_units
from core.measures.perplexity import evaluate, evaluation_windows
from core.models.blocks import prunable_matrices
from core.precision import DTYPES
from core.pruners import make_pruner
from core.sequential import prune_
from core.targets import Target
from core.texts.windows import training_windows
from core.training.finetune import num_windows
from orchestrator.plan.stages import Stage
from orchestrator.trial.clock import timed
from orchestrator.trial.training import checkpoint_names, recover
from orchestrator.trial.workspace import Workspace


def run_prune(space: Workspace, stage: Stage) -> None:
    """Prunes the parent's weights and publishes the result."""
    fields = stage.fields
    model, masks = space.load(stage.parent, training=False)
    config = PruneConfig(**fields["settings"])
    pruner = make_pruner(stage.method, config)
    windows = None
    if "calibration" in fields:
        windows = space.tokens(stage)
    target = Target(fields["sparsity"], fields["mask_structure"])
    metrics: dict[str, Any] = {"calibration_tokens": 0 if windows is None else windows.numel()}
    with timed(space.ranks) as clock:
        targets = target
        if config.allocation != "uniform":
            assert windows is not None
            metrics["outlier_ratios"] = dense_outlier_ratios(space, stage, model, windows)
            ratios = metrics["outlier_ratios"]
            targets = allocate(prunable_matrices(model), ratios, target)
        micro_batch = space.micro_batch(fields.get("calibration", {}).get("seq_len", 1))
        calibration = Calibration(windows, micro_batch, DTYPES[space.job.dtype])
        done = prune_(model, pruner, targets, space.ranks, calibration, masks or None)
    space.hold(stage.id, model, done.masks)
    metrics["dampening_frac"] = done.dampening_frac
    statistic = None if pruner.statistic is None else pruner.statistic.__name__
    metrics["matrices"] = matrix_record(done.errors, statistic, done.fell_back)
    space.publish(stage, clock, metrics, fields["sparsity"], done.grids)


def matrix_record(
    errors: dict[str, float | None], statistic: str | None, fell_back: list[str]
) -> dict[str, Any]:
    """What is recorded of every matrix; publishing adds `sparsity`, which it measures."""
    rounded = [None if error is None else float(f"{error:.4g}") for error in errors.values()]
    record = {"names": [*errors], "errors": rounded, "statistic": statistic}
    return {**record, "fell_back": fell_back} if fell_back else record


def dense_outlier_ratios(
    space: Workspace, stage: Stage, model: PreTrainedModel, windows: torch.Tensor
) -> list[float]:
    """Those of the dense model: a branch's first prune stage measures them for all."""
    parent = stage.parent
    while parent is not None and parent != space.job.root:
        ratios = space.need_manifest(parent)["metrics"].get("outlier_ratios")
        if ratios is not None:
            return ratios
        parent = space.job.stage(parent).parent
    assert stage.parent == space.job.root, "only the dense model has outliers to measure"
    micro_batch = space.micro_batch(windows.shape[1])
    calibration = Calibration(windows, micro_batch, DTYPES[space.job.dtype])
    return outlier_ratios(model, calibration, space.ranks)


def run_finetune(space: Workspace, stage: Stage) -> None:
    """Trains the parent's weights under its masks and publishes the result."""
    fields = stage.fields
    seq_len = fields["text"]["seq_len"]
    model, masks = space.load(stage.parent, training=True)
    count = num_windows(fields["tokens"], seq_len)
    windows = training_windows(space.tokens(stage), count, seq_len, fields["seed"], fields["round"])
    with timed(space.ranks) as clock:
        metrics = recover(space, stage, model, masks, windows)
    space.hold(stage.id, model, masks)
    space.publish(stage, clock, metrics, space.job.sparsity_of(stage.parent))
    if space.ranks.rank == 0:
        for name in checkpoint_names(stage):
            space.store.checkpoints.delete(name)


def run_evaluate(space: Workspace, stage: Stage) -> None:
    """Evaluates the parent's weights."""
    text = stage.fields["text"]
    model, _ = space.load(stage.parent, training=False)
    stream = space.tokens(stage)
    windows = evaluation_windows(len(stream), text["seq_len"], text["stride"], text["max_windows"])
    with timed(space.ranks) as clock:
        result = evaluate(
            model,
            stream,
            windows,
            space.ranks,
            micro_batch=space.micro_batch(text["seq_len"]),
            compute_dtype=DTYPES[space.job.dtype],
        )
    metrics = {
        "perplexity": result.perplexity,
        "nll": result.nll,
        "num_tokens": result.num_tokens,
        "num_windows": result.num_windows,
    }
    counts = space.counts(stage)
    if counts is not None:
        metrics["num_words"], metrics["num_bytes"] = scored_units(windows, counts)
    space.publish_metrics(stage, {**metrics, **clock})


RUNNERS: dict[str, Callable[[Workspace, Stage], None]] = {
    "prune": run_prune,
    "finetune": run_finetune,
    "evaluate": run_evaluate,
}
"""Stage kind -> what runs it; the dense model is read, never run."""
