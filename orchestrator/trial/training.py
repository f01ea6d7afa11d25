"""What a training stage does: one round, or one for each learning rate and the best of them kept.

Collective. The choice is made on validation text alone; the rates it was made from, and what each
gave, stand in the stage's metrics.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.config import FinetuneConfig
from core.measures.perplexity import evaluate, evaluation_windows
from core.models.masks import Masks
from core.parallel import local
from core.precision import DTYPES
from core.training.finetune import finetune_
from core.training.loop import FinetuneReport, Loop
from core.training.optimizer import TrainingError
from orchestrator.inputs.tokens import validation_reader
from orchestrator.plan.stages import Stage
from orchestrator.results.numbers import thinned
from orchestrator.trial.checkpoints import opened_checkpoint, save_checkpoint
from orchestrator.trial.workspace import Workspace

logger = logging.getLogger(__name__)


def learning_rates(stage: Stage) -> list[float]:
    """The rates to choose from, one or more."""
    rates = stage.fields["lr"]
    return rates if isinstance(rates, list) else [rates]


def checkpoint_names(stage: Stage) -> list[str]:
    """Where the half-done rounds of a stage lie in the store, one for each learning rate."""
    count = len(learning_rates(stage))
    return [stage.id] if count == 1 else [f"{stage.id}-{i}" for i in range(count)]


def recover(
    space: Workspace, stage: Stage, model: PreTrainedModel, masks: Masks, windows: Tensor
) -> dict[str, Any]:
    """Trains a model in place; returns the stage's metrics.

    Raises:
        TrainingError: of the last learning rate, where every one of them ends in it.
    """
    rates, names = learning_rates(stage), checkpoint_names(stage)
    teacher = space.teacher() if {"distill", "objective"} & stage.fields.keys() else None
    if len(rates) == 1:
        done = train_round(space, stage, model, teacher, masks, windows, rates[0], names[0])
        return metrics_of(done)
    start, best, chosen = snapshot(model), None, {}
    losses: dict[str, float | None] = {}
    error: TrainingError | None = None
    for i, rate in enumerate(rates):
        if i > 0:
            restore_(model, start)
        try:
            done = train_round(space, stage, model, teacher, masks, windows, rate, names[i])
        except TrainingError as failed:
            logger.warning("learning rate %g is out: %s", rate, failed)
            losses[f"{rate:g}"], error = None, failed
            continue
        nll = validation_nll(space, stage, model)
        losses[f"{rate:g}"] = nll if math.isfinite(nll) else None
        if math.isfinite(nll) and (best is None or nll < chosen["validation_nll"]):
            best, chosen = snapshot(model), {**metrics_of(done), "lr": rate, "validation_nll": nll}
    if best is None:
        raise error or TrainingError("no learning rate gives a finite loss on validation text")
    restore_(model, best)
    return {**chosen, "validation_losses": losses}


def metrics_of(done: FinetuneReport) -> dict[str, Any]:
    """A round's report as a manifest has it."""
    return {
        "num_tokens": done.num_tokens,
        "losses": thinned(done.losses),
        "num_steps": done.steps_resumed + len(done.losses),
        "steps_resumed": done.steps_resumed,
    }


def config_of(fields: dict[str, Any], rate: float) -> FinetuneConfig:
    """The settings of one round, back from a stage's fields."""
    distill = fields.get("distill", {})
    return FinetuneConfig(
        lr=rate,
        warmup_frac=fields["warmup_frac"],
        weight_decay=fields["weight_decay"],
        clip_norm=fields["clip_norm"],
        objective=fields.get("objective", "next_token"),
        distill=bool(distill),
        distill_temperature=distill.get("temperature"),
        distill_mix=distill.get("mix"),
        trainable=fields.get("trainable", "all"),
        lora_rank=fields.get("lora_rank"),
    )


def train_round(
    space: Workspace,
    stage: Stage,
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    masks: Masks,
    windows: Tensor,
    rate: float,
    name: str,
) -> FinetuneReport:
    """One round with one learning rate, from its last checkpoint where there is one."""
    fields = stage.fields
    seq_len = fields["text"]["seq_len"]
    with opened_checkpoint(space.store, space.ranks, name) as resume_from:
        loop = Loop(
            space.ranks,
            micro_batch=space.micro_batch(seq_len),
            compute_dtype=DTYPES[fields["dtype"]],
            recompute=space.job.activation_checkpointing,
            resume_from=resume_from,
            save_checkpoint=lambda step, write: save_checkpoint(
                space.store, space.ranks, name, step, write
            ),
            save_every_seconds=space.job.checkpoint_seconds,
        )
        batches = windows.split(max(1, fields["batch_tokens"] // seq_len))
        return finetune_(model, masks, batches, config_of(fields, rate), loop, teacher)


def validation_nll(space: Workspace, stage: Stage, model: PreTrainedModel) -> float:
    """Mean loss on validation text, in nats a token, evaluated as test text will be."""
    spec = stage.fields["validation"]
    stream = space.tokens(validation_reader(stage))
    windows = evaluation_windows(len(stream), spec["seq_len"], None, spec["max_windows"])
    micro_batch = space.micro_batch(spec["seq_len"])
    dtype = DTYPES[space.job.dtype]
    return evaluate(
        model, stream, windows, space.ranks, micro_batch=micro_batch, compute_dtype=dtype
    ).nll


def snapshot(model: PreTrainedModel) -> list[Tensor]:
    """This rank's parts of all parameters, on the CPU."""
    return [local(param.detach()).to("cpu", copy=True) for param in model.parameters()]


@torch.no_grad()
def restore_(model: PreTrainedModel, weights: list[Tensor]) -> None:
    """Puts a snapshot back."""
    for param, value in zip(model.parameters(), weights, strict=True):
        local(param).copy_(value)
