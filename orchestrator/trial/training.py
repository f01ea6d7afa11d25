"""A training stage: one round, or one for each learning rate and the best of them kept.

Collective. The rate is chosen on validation text alone. The rates and the loss of each stand in the
stage's metrics, as do objective, rate and gap of a round that chooses them by the damage.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.measures.gap import mean_gap
from core.models.anatomy import anatomy_of
from core.models.mask_files import Masks
from core.parallel import local
from core.precision import DTYPES
from core.training.adaptive import NO_GAP, Start, adapted, either, gap_windows
from core.training.elsa import Aim, JointReport, elsa_
from core.training.finetune import finetune_
from core.training.loop import FinetuneReport, Loop
from core.training.optimizer import TrainingError
from core.training_config import Training
from orchestrator.plan.kinds import Finetune, Joint
from orchestrator.plan.stages import Stage
from orchestrator.plan.training_kinds import trained_rounds
from orchestrator.results.numbers import thinned
from orchestrator.trial.checkpoints import opened_checkpoint, save_checkpoint
from orchestrator.trial.evaluation import perplexity_on
from orchestrator.trial.workspace import Workspace

logger = logging.getLogger(__name__)

DISTILLED = "distill"
"""Objective of a round of adaptive training that learned predictions, in its metrics."""


def work_of(stage: Stage) -> Finetune:
    """Return the round of training that a stage is."""
    [work] = trained_rounds(stage.work)
    return work


def checkpoint_names(stage: Stage) -> list[str]:
    """Return where half-done rounds of a stage can lie in the store."""
    training = work_of(stage).training
    if not training.adapts:
        return names_of(stage.id, training)
    # A checkpoint of one objective is none of the other.
    return [
        name for each in either(training) for name in names_of(f"{stage.id}-{each.objective}", each)
    ]


def names_of(name: str, training: Training) -> list[str]:
    """Return the names of the half-done rounds of a stage, one for each rate."""
    count = len(training.lrs)
    return [name] if count == 1 else [f"{name}-{i}" for i in range(count)]


def recover(
    space: Workspace, stage: Stage, model: PreTrainedModel, masks: Masks, windows: Tensor
) -> tuple[dict[str, Any], Masks]:
    """Train a model in place; return the stage's metrics, and the masks of the trained model.

    Raises:
        TrainingError: of the last learning rate, where every one of them ends in it.
    """
    training = work_of(stage).training
    if training.adapts:
        return recover_adaptively(space, stage, model, masks, windows), masks
    rounds = rounds_of(space, stage, stage.id, training)
    dtype = teacher_dtype(space, work_of(stage))
    teacher = space.weights.teacher(dtype) if training.needs_teacher else None
    return train_best(rounds, model, teacher, masks, windows)


def recover_adaptively(
    space: Workspace, stage: Stage, model: PreTrainedModel, masks: Masks, windows: Tensor
) -> dict[str, Any]:
    """Train a model in place by the recipe that its gap to the dense model asks for.

    Return the stage's metrics. If the gap is no smaller afterwards, the weights are those from
    before, and the metrics say that the round was taken back.
    """
    work, micro_batch = work_of(stage), space.micro_batch(windows.shape[1])
    dense = space.weights.teacher(space.weights.dense_dtype)
    seen = gap_windows(windows)

    def gap() -> float:
        return mean_gap(model, dense, seen, space.ranks, micro_batch=micro_batch)

    before = gap()
    if before < NO_GAP:
        return {"num_tokens": 0, "losses": [], "num_steps": 0, "lr": 0.0, "gap_before": before}
    hidden_size, distilled = anatomy_of(model).hidden_size, was_distilled(space, stage)
    start = Start(before, hidden_size, windows.numel(), distilled)
    training = adapted(work.training, start)
    rounds = rounds_of(space, stage, f"{stage.id}-{training.objective}", training)
    dtype = teacher_dtype(space, work) if training.distill else space.weights.dense_dtype
    teacher = dense if dtype == space.weights.dense_dtype else space.weights.teacher(dtype)
    objective = DISTILLED if training.distill else training.objective
    chosen = {"objective": objective, "lr": rounds[0].rate, "gap_before": before}
    try:
        metrics, _ = train_best(rounds, model, teacher, masks, windows)
        after = gap()
    except TrainingError as failed:
        if not math.isfinite(before):
            raise
        logger.warning("a round is taken back: %s", failed)
        metrics = {"num_tokens": windows.numel(), "losses": [], "num_steps": 0}
        after = math.nan
    told = after if math.isfinite(after) else None
    return {**chosen, "gap_after": told, "taken_back": not after < before, **metrics}


def was_distilled(space: Workspace, stage: Stage) -> bool:
    """Return True if an earlier round of the branch learned predictions and was not taken back.

    Collective.
    """
    return any(
        metrics.get("objective") == DISTILLED and not metrics["taken_back"]
        for metrics in space.earlier_metrics(stage)
    )


def teacher_dtype(space: Workspace, work: Finetune) -> str:
    """Return the dtype of the dense model that training learns from."""
    return work.dtype if work.mixes_precision else space.weights.dense_dtype


def train_best(
    rounds: list[Round],
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    masks: Masks,
    windows: Tensor,
) -> tuple[dict[str, Any], Masks]:
    """Train a model in place, at the best of the rates; return metrics and masks."""
    space, stage = rounds[0].space, rounds[0].stage
    if len(rounds) == 1:
        done = rounds[0].train(model, teacher, masks, windows)
        return metrics_of(done), masks_after(done, masks)
    start, best, chosen, kept = snapshot(model), None, {}, masks
    losses: dict[str, float | None] = {}
    error: TrainingError | None = None
    for i, each in enumerate(rounds):
        if i > 0:
            restore_(model, start)
        try:
            done = each.train(model, teacher, masks, windows)
        except TrainingError as failed:
            logger.warning("learning rate %g is out: %s", each.rate, failed)
            # The frames of its traceback hold the optimizer.
            losses[f"{each.rate:g}"], error = None, failed.with_traceback(None)
            continue
        nll = validation_nll(space, stage, model)
        losses[f"{each.rate:g}"] = nll if math.isfinite(nll) else None
        if math.isfinite(nll) and (best is None or nll < chosen["validation_nll"]):
            best, kept = snapshot(model), masks_after(done, masks)
            chosen = {**metrics_of(done), "lr": each.rate, "validation_nll": nll}
    if best is None:
        raise error or TrainingError("no learning rate gives a finite loss on validation text")
    restore_(model, best)
    return {**chosen, "validation_losses": losses}, kept


def masks_after(done: FinetuneReport, before: Masks) -> Masks:
    """Return the masks of a trained model: those that joint training found, else the same."""
    return done.masks if isinstance(done, JointReport) else before


def metrics_of(done: FinetuneReport) -> dict[str, Any]:
    """Return a round's report as a manifest has it."""
    return {
        "num_tokens": done.num_tokens,
        "losses": thinned(done.losses),
        "num_steps": done.steps_resumed + len(done.losses),
        "steps_resumed": done.steps_resumed,
        **({"whole_blocks": done.whole_blocks} if done.whole_blocks else {}),
        **({"dropped_share": done.dropped_share} if isinstance(done, JointReport) else {}),
    }


def rounds_of(space: Workspace, stage: Stage, name: str, training: Training) -> list[Round]:
    """Return a round for each learning rate, with checkpoints below `name`."""
    names = names_of(name, training)
    rates = zip(training.lrs, names, strict=True)
    return [Round(space, stage, replace(training, lr=rate), each) for rate, each in rates]


class Round:
    """One round with one learning rate, and the place of its checkpoints in the store."""

    def __init__(self, space: Workspace, stage: Stage, training: Training, name: str) -> None:
        self.space, self.stage, self.training, self.name = space, stage, training, name
        self.work = work_of(stage)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.training.lrs[0]

    def train(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel | None,
        masks: Masks,
        windows: Tensor,
    ) -> FinetuneReport:
        """Train in place, from the last checkpoint where there is one."""
        space, work, seq_len = self.space, self.work, self.work.text.seq_len
        with opened_checkpoint(space.store, space.ranks, self.name) as resumed:
            loop = Loop(
                space.ranks,
                micro_batch=space.micro_batch(seq_len),
                compute_dtype=DTYPES[work.dtype],
                recompute=space.job.workers.activation_checkpointing,
                resume_from=resumed and resumed.directory,
                save_checkpoint=lambda step, write: save_checkpoint(
                    space.store, space.ranks, self.name, step, write
                ),
                save_every_seconds=space.job.limits.checkpoint_seconds,
                save_now=space.notice.save_now,
            )
            batches = windows.split(work.step_windows)
            whole = self.stage.work
            if isinstance(whole, Joint):
                aim = Aim(whole.target, self.training, whole.joint)
                return elsa_(model, masks, batches, aim, loop, teacher)
            done = finetune_(model, masks, batches, self.training, loop, teacher)
        if done.whole_blocks:
            told = "%d blocks have no two halves: reconstruction trains each of them as a whole"
            space.say_once(told, done.whole_blocks)
        return done


def validation_nll(space: Workspace, stage: Stage, model: PreTrainedModel) -> float:
    """Return the mean loss on validation text, in nats a token, evaluated as test text will be."""
    text = work_of(stage).validation
    assert text is not None
    return perplexity_on(space, model, space.tokens(text), text, space.weights.dense_dtype)[0].nll


def snapshot(model: PreTrainedModel) -> list[Tensor]:
    """Return this rank's parts of all parameters, on the CPU."""
    return [local(param.detach()).to("cpu", copy=True) for param in model.parameters()]


@torch.no_grad()
def restore_(model: PreTrainedModel, weights: list[Tensor]) -> None:
    """Put a snapshot back."""
    for param, value in zip(model.parameters(), weights, strict=True):
        local(param).copy_(value)
