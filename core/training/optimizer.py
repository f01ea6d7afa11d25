"""AdamW under masks with its learning-rate schedule, which every objective trains with.

Gradients are masked before clipping and before the optimizer step. From then on a pruned weight has
zero gradient, zero Adam moments and zero decay, so it stays exactly zero and nobody has to set it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.parallel import compute_device, local, whole
from core.ranks import Ranks
from core.training.splitting import Splitting
from core.training.trainable import Trained
from core.training_config import Training

BETAS = (0.9, 0.95)


class TrainingError(ArithmeticError):
    """Training that cannot go on; the message is one line and names what to try."""


def learning_rate(step: int, num_steps: int, config: Training) -> float:
    """Return the rate of a step: linear warm-up over `warmup_frac`, then linear decay to zero."""
    (peak,) = config.lrs
    warmup = max(1, round(config.warmup_frac * num_steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (num_steps - step) / max(1, num_steps - warmup + 1)


class MaskedAdamW:
    """AdamW on sharded and whole parameters that train; every rank takes the same step."""

    def __init__(
        self,
        trained: Trained,
        config: Training,
        ranks: Ranks,
        splitting: Splitting | None = None,
    ) -> None:
        """Make the optimizer; a splitting pulls at the gradients after clipping."""
        self.trained, self.config, self.ranks = trained, config, ranks
        self.splitting = splitting
        # One group each, because torch's fused loops do not mix sharded and whole tensors.
        groups = [{"params": params} for params in (trained.sharded, trained.whole) if params]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=config.lrs[0],
            betas=BETAS,
            weight_decay=config.weight_decay,
            # On CPUs the other loops take square roots of zero six times slower, and half of all
            # values are zero.
            fused=True,
        )

    def step(self, index: int, num_steps: int, loss: Tensor) -> float:
        """Take one step on the present gradients, and clear them (collective).

        The host waits for the device once, when it reads loss and norm.

        Args:
            index: number of the step, from 0.
            num_steps: all steps of the schedule.
            loss: this rank's part of the loss, float64.

        Returns:
            The loss of all ranks.

        Raises:
            TrainingError: the loss or the gradient is not finite, on all ranks alike.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(index, num_steps, self.config)
        for param in self.trained.whole:
            assert param.grad is not None
            # FSDP2 averages over ranks, and this does the same. The loss makes up for both.
            self.ranks.sum_(param.grad).div_(self.ranks.size)
        for param, mask in self.trained.masks:
            assert param.grad is not None
            local(param.grad).mul_(mask)
        loss = self.ranks.sum_(loss)
        value, norm = torch.stack([loss, self.clip().to(loss)]).tolist()
        if not math.isfinite(value) or not math.isfinite(norm):
            self.optimizer.zero_grad()
            raise TrainingError(
                f"loss {value:g} with gradient norm {norm:g} at step {index + 1}; "
                f"try --{self.rate_flag} {self.config.lrs[0] / 10:g}"
            )
        if self.splitting is not None:
            self.splitting.pull_()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return value

    @property
    def rate_flag(self) -> str:
        """The flag of the learning rate."""
        return "finetune.lr" if self.splitting is None else "joint.lr"

    def clip(self) -> Tensor:
        """Scale all gradients to a joint norm of at most `clip_norm`; return the norm before."""
        norms = []
        for params in (self.trained.sharded, self.trained.whole):
            grads = [param.grad for param in params if param.grad is not None]
            if grads and local(grads[0]).device.type == compute_device(grads[0]).type:
                norms.append(whole(torch.nn.utils.get_total_norm(grads)))
            elif grads:
                # The shards lie in host memory, and DTensor would sum over ranks there.
                square = torch.nn.utils.get_total_norm([local(g) for g in grads]).square()
                norms.append(self.ranks.sum_(square).sqrt())
        total = (
            norms[0]
            if len(norms) == 1
            else torch.stack([n.to(self.ranks.device) for n in norms]).norm()
        )
        for params in (self.trained.sharded, self.trained.whole):
            if params:
                torch.nn.utils.clip_grads_with_norm_(params, self.config.clip_norm, total)
        return total
