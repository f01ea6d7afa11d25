"""Masked training between or after prune steps: pruned weights are zero after every step.

Here is the loop over next-token or distillation losses (`losses.py`), which `elsa.py` shares.
`reconstruction.py` has the loop over blocks. `loop.py` and `optimizer.py` hold what all of them
share, and `trainable.py` chooses the parameters that train. Dropout is off: rounds are short, and
every number then follows from (seed, round) alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.measures.sparsity import pruned_are_zero
from core.models.anatomy import anatomy_of
from core.models.blocks import have_routers, prunable_matrices
from core.training.loop import FinetuneReport, Loop, Progress
from core.training.losses import Distillation, TokenLosses, token_losses
from core.training.mixed_precision import computing_in
from core.training.optimizer import MaskedAdamW
from core.training.recompute import recomputed
from core.training.reconstruction import reconstruct_
from core.training.splitting import Splitting
from core.training.trainable import trained
from core.training_config import Training


def finetune_(
    model: PreTrainedModel,
    masks: Mapping[str, Tensor],
    batches: tuple[Tensor, ...],
    config: Training,
    loop: Loop,
    teacher: PreTrainedModel | None = None,
) -> FinetuneReport:
    """Train a model in place, once through all batches (collective over ranks).

    Args:
        model: float32 weights, sharded by `sharding.shard_` if there are several ranks.
        masks: full masks; an empty dict trains the dense model.
        batches: windows [num_windows, seq_len] of each optimizer step over all ranks together, in
            training order, the same on every rank; the last batch may have fewer windows.
        config: objective, trainable parameters, one learning rate and other numbers.
        loop: ranks, micro-batch, dtype, checkpoints and reports.
        teacher: the dense model, sharded in the same way; distillation and reconstruction need it.
            Distillation runs it in the dtype of its weights.

    Raises:
        TrainingError: the loss or the gradient is not finite, on all ranks alike.
    """
    whole_blocks = 0
    if config.objective == "reconstruct":
        assert teacher is not None
        whole_blocks = sum(not facts.mlp_half for facts in anatomy_of(model).blocks)
        require_float32(model)
        progress = reconstruct_(model.eval(), teacher, masks, batches, config, loop)
    else:
        steps = Steps(batches, config, loop, losses_of(config, teacher))
        progress = train_in(model, masks, steps)
    for name, matrix in prunable_matrices(model, have_routers(model, masks)).items():
        kept = name not in masks or pruned_are_zero(matrix.part(), matrix.cut(masks[name]))
        assert kept, f"training filled a zero of {name}"
    num_tokens = sum(batch.numel() for batch in batches)
    return FinetuneReport(num_tokens, progress.losses, progress.first, whole_blocks=whole_blocks)


def require_float32(model: PreTrainedModel) -> None:
    """Assert that weights are float32."""
    assert all(p.dtype == torch.float32 for p in model.parameters()), "training needs fp32 weights"


def losses_of(config: Training, teacher: PreTrainedModel | None) -> TokenLosses:
    """Return the loss of each token; distillation compares with the teacher."""
    if not config.distill:
        return token_losses
    assert teacher is not None
    return Distillation(teacher, config.temperature, config.mix)


@dataclass(frozen=True)
class Steps:
    """All steps of a round: their windows, their numbers, the way they run, their loss."""

    batches: tuple[Tensor, ...]
    config: Training
    loop: Loop
    token_loss: TokenLosses


def train_in(
    model: PreTrainedModel,
    masks: Mapping[str, Tensor],
    steps: Steps,
    splitting: Splitting | None = None,
) -> Progress:
    """Train a model in place, in the dtype of the loop; return what was done (collective)."""
    require_float32(model)
    model.eval()
    with computing_in(model, steps.loop.compute_dtype, steps.loop.ranks) as trainee:
        return train(trainee, masks, steps, splitting)


def train(
    model: PreTrainedModel,
    masks: Mapping[str, Tensor],
    steps: Steps,
    splitting: Splitting | None,
) -> Progress:
    """Take one optimizer step for each batch; return what was done.

    With a splitting the masks are found too, and those given bind.
    """
    batches, config, loop = steps.batches, steps.config, steps.loop
    matrices = prunable_matrices(model, have_routers(model, masks))
    around = recomputed(model) if loop.recompute else nullcontext()
    with around, trained(model, matrices, masks, config, loop.compute_dtype) as chosen:
        optimizer = MaskedAdamW(chosen, config, loop.ranks, splitting)
        if splitting is not None:
            splitting.begin(matrices, optimizer.optimizer, len(batches))
        progress = Progress(loop, len(batches), model, optimizer.optimizer, splitting)
        for step in range(progress.first, len(batches)):
            loss = accumulate_gradients(model, batches[step], loop, steps.token_loss)
            progress.add(optimizer.step(step, len(batches), loss))
            if splitting is not None:
                splitting.follow_(step + 1)
            progress.save_if_due()
        if splitting is not None:
            splitting.finish_()
    return progress


def accumulate_gradients(
    model: PreTrainedModel, batch: Tensor, loop: Loop, token_loss: TokenLosses
) -> Tensor:
    """Add the gradients of the mean loss over a global batch; return this rank's part of the loss.

    The loss is divided by the number of predicted tokens in the whole batch, so neither the number
    of ranks nor the micro-batch changes it. Ranks take turns with the windows. If the windows do
    not divide evenly, a repeated window of weight zero keeps the collective calls of the ranks in
    step.
    """
    ranks = loop.ranks
    predicted = len(batch) * (batch.shape[1] - 1)
    missing = -len(batch) % ranks.size
    weights = torch.ones(len(batch) + missing)
    weights[len(batch) :] = 0.0
    windows = ranks.share(torch.cat([batch, batch[:1].expand(missing, -1)]))
    total = torch.zeros((), dtype=torch.float64, device=ranks.device)
    pieces = zip(windows.split(loop.micro_batch), ranks.share(weights).split(loop.micro_batch))
    for ids, weight in pieces:
        ids, weight = ids.to(ranks.device), weight.to(ranks.device)
        loss = (token_loss(model(ids).logits, ids).sum(1) * weight).sum() / predicted
        # FSDP2 averages gradients over ranks, but the gradient of the batch is their sum.
        (loss * ranks.size).backward()
        total += loss.detach()
    return total
