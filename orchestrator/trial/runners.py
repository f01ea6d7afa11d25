"""Runners: the function that runs each kind of stage, from its parent's weights to its output.

All are collective. `walk.py` calls them with a stage whose parent is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from core.activations import Calibration
from core.allocation import allocate, outlier_ratios
from core.calibration_config import ExpertTokens
from core.measures.counts import scored_units
from core.models.blocks import prunable_matrices
from core.models.mask_files import Masks, PackedMasks
from core.parallel import whole
from core.precision import DTYPES
from core.pruners import make_pruner
from core.sequential import PruneReport, prune_
from orchestrator.plan.kinds import Evaluate, Finetune, Joint, Prune, Speed, Tasks
from orchestrator.plan.stages import Stage
from orchestrator.plan.work import Work
from orchestrator.trial.blocks import Blocks, opened_blocks
from orchestrator.trial.clock import timed
from orchestrator.trial.evaluation import perplexity_on
from orchestrator.trial.speed import run_speed
from orchestrator.trial.tasks import run_tasks
from orchestrator.trial.training import checkpoint_names, recover
from orchestrator.trial.workspace import Workspace


def run_prune(space: Workspace, stage: Stage) -> None:
    """Prune the parent's weights and publish the result."""
    work = stage.work
    assert isinstance(work, Prune)
    model, masks = space.weights.load(stage.parent, training=False)
    windows = None if work.draw is None else space.tokens(work.draw)
    metrics: dict[str, Any] = {"calibration_tokens": 0 if windows is None else windows.numel()}
    with space.weights.rewriting(model, work.settings.routers):
        with timed(space.ranks) as clock, opened_blocks(space, stage) as blocks:
            done = prune(space, blocks, model, masks, windows)
        space.weights.hold(stage.id, model, done.masks)
        statistic = make_pruner(work.method, work.settings).statistic
        metrics |= blocks.facts
        metrics["dampening_frac"] = done.dampening_frac
        metrics["matrices"] = matrix_record(done, None if statistic is None else statistic.__name__)
        if done.expert_tokens:
            metrics["expert_tokens"] = by_layer(done.expert_tokens)
        if blocks.resumed:
            metrics["blocks_resumed"] = blocks.resumed
        space.publish(stage, metrics | clock, done.grids)
    if space.ranks.rank == 0:
        space.store.checkpoints.delete(stage.id)


def prune(
    space: Workspace,
    blocks: Blocks,
    model: PreTrainedModel,
    masks: Masks,
    windows: torch.Tensor | None,
) -> PruneReport:
    """Prune a model in place to the stage's target, shared out to its matrices if asked for."""
    stage = blocks.stage
    work = stage.work
    assert isinstance(work, Prune)
    targets = work.target
    if work.settings.allocation != "uniform":
        assert windows is not None
        if "outlier_ratios" not in blocks.facts:
            blocks.facts["outlier_ratios"] = dense_outlier_ratios(space, stage, model, windows)
        ratios = blocks.facts["outlier_ratios"]
        matrices = prunable_matrices(model, work.settings.routers)
        targets = allocate(matrices, ratios, work.target)
    micro_batch = space.micro_batch(1 if work.calibration is None else work.calibration.seq_len)
    calibration = Calibration(
        windows, micro_batch, DTYPES[work.dtype], blocks.resumption(), expert_tokens_of(work)
    )
    pruner = make_pruner(work.method, work.settings)
    return prune_(model, pruner, targets, space.ranks, calibration, masks or None)


def expert_tokens_of(work: Work) -> ExpertTokens:
    """Return the tokens on which a prune stage observes experts; the default without experts."""
    assert isinstance(work, Prune)
    return (work.calibration and work.calibration.experts) or ExpertTokens()


def matrix_record(done: PruneReport, statistic: str | None) -> dict[str, Any]:
    """Return what is recorded of every matrix; publishing adds the measured `sparsity`."""
    errors = done.errors
    rounded = [None if error is None else float(f"{error:.4g}") for error in errors.values()]
    record = {"names": [*errors], "errors": rounded, "statistic": statistic}
    return {**record, "fell_back": done.fell_back} if done.fell_back else record


def by_layer(expert_tokens: dict[str, int]) -> dict[str, list[int]]:
    """Return the calibration tokens that the router sent to each expert, layer by layer."""
    found: dict[str, list[int]] = {}
    for path, count in expert_tokens.items():
        found.setdefault(path.rpartition(".")[0], []).append(count)
    return found


def dense_outlier_ratios(
    space: Workspace, stage: Stage, model: PreTrainedModel, windows: torch.Tensor
) -> list[float]:
    """Return those of the dense model; a branch's first prune stage measures them for all."""
    for metrics in space.earlier_metrics(stage):
        if metrics.get("outlier_ratios") is not None:
            return metrics["outlier_ratios"]
    assert stage.parent == space.job.root.id, "only the dense model has outliers to measure"
    micro_batch = space.micro_batch(windows.shape[1])
    dtype, experts = DTYPES[space.weights.dense_dtype], expert_tokens_of(stage.work)
    calibration = Calibration(windows, micro_batch, dtype, experts=experts)
    return outlier_ratios(model, calibration, space.ranks)


def run_training(space: Workspace, stage: Stage) -> None:
    """Train the parent's weights and publish the result: under its masks, or until it has one."""
    work = stage.work
    draw = work.training_draw()
    assert draw is not None
    windows = space.training_windows(draw)
    model, masks = space.weights.load(stage.parent, training=True)
    if isinstance(work, Joint) and work.settings.keep_zeros and not masks:
        matrices = prunable_matrices(model)
        masks = PackedMasks({name: whole(one.read()) != 0 for name, one in matrices.items()})
    with timed(space.ranks) as clock:
        metrics, masks = recover(space, stage, model, masks, windows)
        if metrics.get("taken_back"):
            space.weights.forget()
            model, masks = space.weights.load(stage.parent, training=True)
    space.weights.hold(stage.id, model, masks)
    if work.changes_masks:
        metrics["matrices"] = {"names": [*masks], "errors": [None] * len(masks), "statistic": None}
    space.publish(stage, metrics | clock)
    if space.ranks.rank == 0:
        for name in checkpoint_names(stage):
            space.store.checkpoints.delete(name)


def run_evaluate(space: Workspace, stage: Stage) -> None:
    """Evaluate the parent's weights and publish the perplexity."""
    work = stage.work
    assert isinstance(work, Evaluate)
    text = work.text
    model, _ = space.weights.load(stage.parent, training=False)
    stream = space.tokens(text)
    with timed(space.ranks) as clock:
        result, windows = perplexity_on(space, model, stream, text, work.dtype)
    metrics = {
        "perplexity": result.perplexity,
        "nll": result.nll,
        "num_tokens": result.num_tokens,
        "num_windows": result.num_windows,
        "num_parameters": sum(each.numel() for each in model.parameters()),
    }
    counts = space.counts(text)
    if counts is not None:
        metrics["num_words"], metrics["num_bytes"] = scored_units(windows, counts)
    space.publish_metrics(stage, {**metrics, **clock})


RUNNERS: dict[type[Work], Callable[[Workspace, Stage], None]] = {
    Prune: run_prune,
    Finetune: run_training,
    Joint: run_training,
    Evaluate: run_evaluate,
    Tasks: run_tasks,
    Speed: run_speed,
}
"""The runner of each kind that runs; the dense model is read from its source."""
