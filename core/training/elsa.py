"""ELSA: training that ends with an exact mask (arXiv 2510.01650); `splitting.py` has its equations.

It shares the loop, the losses and the checkpoints of masked training. The mask of an earlier prune
step binds: what it pruned stays zero in every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from core.joint_config import JointConfig, require_joint
from core.measures.sparsity import assert_growing
from core.models.mask_files import Masks
from core.targets import Target
from core.training.finetune import Steps, losses_of, train_in
from core.training.loop import FinetuneReport, Loop
from core.training.splitting import Splitting
from core.training_config import Training


@dataclass(frozen=True)
class Aim:
    """The end of joint training, and the way there."""

    target: Target
    training: Training
    """Loss, one learning rate and other numbers; all parameters train."""
    joint: JointConfig


@dataclass(frozen=True)
class JointReport(FinetuneReport):
    """Result of joint training."""

    masks: Masks
    """Masks of all prunable matrices, as bits on the CPU."""
    dropped_share: float
    """Share of the squares of the weights that the last projection took away."""


def elsa_(
    model: PreTrainedModel,
    masks: Mapping[str, Tensor],
    batches: tuple[Tensor, ...],
    aim: Aim,
    loop: Loop,
    teacher: PreTrainedModel | None = None,
) -> JointReport:
    """Train a model in place until it has the target's zeros (collective over ranks).

    Args:
        model: float32 weights, sharded by `sharding.shard_` if there are several ranks.
        masks: full masks that bind, of a model that was pruned before; empty for a dense one.
        batches: windows of each optimizer step over all ranks together, as `finetune_` gets them.
        aim: target and settings.
        loop: ranks, micro-batch, dtype, checkpoints and reports.
        teacher: the dense model, where the loss compares with it.

    Raises:
        TrainingError: the loss or the gradient is not finite, on all ranks alike.
        BadInputError: settings that mean nothing here, or earlier masks without room for N:M.
    """
    require_joint(aim.training)
    splitting = Splitting(aim.joint, aim.target, masks, loop.ranks)
    steps = Steps(batches, aim.training, loop, losses_of(aim.training, teacher))
    progress = train_in(model, masks, steps, splitting)
    assert_growing(masks, splitting.masks)
    num_tokens = sum(batch.numel() for batch in batches)
    return JointReport(
        num_tokens, progress.losses, progress.first, splitting.masks, splitting.dropped_share
    )
