"""Settings that every round of masked training reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from core.checks import require, require_known, require_positive, require_unique, require_used
from core.typed_values import give_types_

Objective = Literal["next_token", "reconstruct", "adaptive"]
Trainable = Literal["all", "bias_norm", "masklora"]
DEFAULT_LR = 3e-4
GAP_TOKENS = 4_096
"""Tokens on which `adaptive` measures the gap, at least one window: the first of the round."""
SHORT_ROUND = 32_768
"""Tokens up to which `adaptive` trains the first round of a branch as it always has."""


@dataclass(frozen=True)
class Training:
    """Settings that every round of masked training reads: optimizer, objective, parameters."""

    lr: float | tuple[float, ...] | None = None
    """Peak learning rate of AdamW. With several, each round keeps the one that has the lowest loss
    on --finetune.validation. Of a row, `num_finetune_tokens` counts the tokens of that one, and
    `num_tried_tokens` those of all. By default 3e-4; `adaptive` sets it by the damage."""
    warmup_frac: float = 0.1
    """Share of the steps in which the learning rate rises, 0 to 1. Then it falls linearly to 0."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW. It shrinks all parameters that train, also biases and
    norms."""
    clip_norm: float = 1.0
    """Largest norm of the gradient of all parameters together. Larger ones are scaled down."""
    objective: Objective = "next_token"
    """`next_token`: loss of the next token; `reconstruct`: train the two halves of each block, one
    after the other, to give the outputs of the dense block (arXiv 2510.14444). `adaptive` measures
    before each round how far the predictions are from those of the dense model. Up to 1 nat a token
    (less in a round of more than 49,152 tokens) it reconstructs. Above it, it learns these
    predictions, and goes on with them in the later rounds of the branch. A larger gap gets a larger
    learning rate, and a round that does not lower the gap is taken back."""
    distill: bool = False
    """Learn from the predictions of the dense model too."""
    distill_temperature: float | None = None
    """Temperature that softens the predictions of both models. By default 2."""
    distill_mix: float | None = None
    """Share of the loss that compares with the dense model, above 0 and at most 1. The rest is the
    loss of the next token. By default 0.5."""
    trainable: Trainable = "all"
    """Parameters to train. `all`; `bias_norm`: biases and norms; `masklora`: these and a low-rank
    update of every pruned matrix under its mask (arXiv 2312.15230)."""
    lora_rank: int | None = None
    """Rank of the updates of `masklora`. By default 16."""

    def __post_init__(self) -> None:
        give_types_(self, "finetune.")
        if isinstance(self.lr, tuple):
            require_unique("finetune.lr", self.lr)
        for flag, value in (
            *(("finetune.lr", lr) for lr in self.lrs),
            ("finetune.clip-norm", self.clip_norm),
            ("finetune.distill-temperature", self.distill_temperature),
        ):
            require_positive(flag, value, "use a positive number")
        require(0 <= self.warmup_frac <= 1, "finetune.warmup-frac", self.warmup_frac, "use 0 to 1")
        decay = self.weight_decay
        require(0 <= decay < math.inf, "finetune.weight-decay", decay, "use 0 or more")
        require_known("finetune.objective", self.objective, get_args(Objective))
        require_known("finetune.trainable", self.trainable, get_args(Trainable))
        self._require_options_that_fit()

    def _require_options_that_fit(self) -> None:
        mix, rank = self.distill_mix, self.lora_rank
        require(mix is None or 0 < mix <= 1, "finetune.distill-mix", mix, "use 0 to 1, not 0")
        require_positive("finetune.lora-rank", rank, "use 1 or more, e.g. 16")
        remedy = "reconstruct already learns from the dense model; leave out --finetune.distill"
        allowed = not (self.distill and self.objective == "reconstruct")
        require(allowed, "finetune.objective", self.objective, remedy)
        remedy = "adaptive learns from the dense model already; add --finetune.objective next_token"
        require(not (self.distill and self.adapts), "finetune.distill", "True", remedy)
        for flag, value, needed, given in (
            ("distill-temperature", self.distill_temperature, "--finetune.distill", self.distill),
            ("distill-mix", mix, "--finetune.distill", self.distill),
            ("lora-rank", rank, "--finetune.trainable masklora", self.trainable == "masklora"),
        ):
            require_used(f"finetune.{flag}", value, given, needed)

    @property
    def lrs(self) -> tuple[float, ...]:
        """The learning rates to choose from; none if each round sets its own."""
        if self.lr is None:
            return () if self.adapts else (DEFAULT_LR,)
        return self.lr if isinstance(self.lr, tuple) else (self.lr,)

    @property
    def num_trainings(self) -> int:
        """Times that a round trains: once for each learning rate, or with the one that it sets."""
        return max(1, len(self.lrs))

    @property
    def adapts(self) -> bool:
        """True if each round chooses its objective by the damage."""
        return self.objective == "adaptive"

    @property
    def needs_teacher(self) -> bool:
        """True if training learns from the dense model."""
        return self.distill or self.objective != "next_token"

    @property
    def temperature(self) -> float:
        """Temperature of distillation."""
        return self.distill_temperature or 2.0

    @property
    def mix(self) -> float:
        """Share of the dense model's predictions in the loss of distillation."""
        return self.distill_mix or 0.5

    @property
    def rank(self) -> int:
        """Rank of low-rank updates."""
        return self.lora_rank or 16

    def options(self) -> dict[str, Any]:
        """Return the settings that differ from plain next-token training of all parameters.

        They enter identities: stages trained before an option existed are found again.
        """
        found: dict[str, Any] = {}
        if self.objective != "next_token":
            found["objective"] = self.objective
        if self.distill:
            found["distill"] = {"temperature": self.temperature, "mix": self.mix}
        if self.trainable != "all":
            found["trainable"] = self.trainable
        if self.trainable == "masklora":
            found["lora_rank"] = self.rank
        return found

    def fields(self) -> dict[str, Any]:
        """Return the settings as they enter identities."""
        return {
            "lr": self.lrs[0] if len(self.lrs) == 1 else list(self.lrs) or None,
            "warmup_frac": self.warmup_frac,
            "weight_decay": self.weight_decay,
            "clip_norm": self.clip_norm,
            **self.options(),
        }
