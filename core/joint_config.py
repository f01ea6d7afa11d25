"""Settings of joint training, which finds weights and masks together (ELSA, arXiv 2510.01650).

What it shares with masked training (text, tokens, loss, clipping, ...) are the settings of
`config.Training`, except for its learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from core.checks import require, require_known, require_positive, require_unique
from core.methods import METHODS
from core.training_config import Training
from core.typed_values import give_types_

PenaltySchedule = Literal["constant", "linear", "cosine", "exponential"]
Score = Literal["magnitude", "second_moment"]
DENSE = "dense"
"""Start of joint training that is no method."""
MOST_INTERVAL, PROJECTIONS = 32, 128
"""The paper's steps between two projections, and how many of these it has in all."""
PAPER_LR = 2e-4
"""Default rate: the paper's for 80 and 90 %."""
PAPER_PENALTIES = {0.5: 1e-2, 0.6: 5e-3, 0.7: 2e-3, 0.8: 1e-3}
"""Default penalties by sparsity: the paper's for OPT-125M."""
EMBEDDED_LRS = {0.5: 1e-3, 0.9: 3e-3}
EMBEDDED_PENALTIES = {0.7: 1e-2, 0.9: 1e-3}
"""Defaults of the embedded model by sparsity, chosen on validation text with 32,768 and 262,144
tokens (experiments/studies/elsa.md)."""
BY_SPARSITY = ("penalty",)
"""Settings beside the rate whose defaults follow the sparsity."""
LOWEST = 0.01
"""First penalty of the exponential schedule, as a share of the last one."""


@dataclass(frozen=True)
class JointConfig:
    """Joint training: weights and masks are found together, by the model's own loss."""

    lr: float | tuple[float, ...] | None = None
    """Peak learning rate, in the place of --finetune.lr. With several, the one with the lowest loss
    on --finetune.validation is kept. By default 2e-4; for the embedded model it grows with the
    sparsity, 1e-3 to 3e-3."""
    penalty: float | None = None
    """Strength that pulls the weights towards their sparse copy (lambda in the paper). It does not
    depend on the number of workers. By default it falls with the sparsity as in the paper, from
    0.01 at 0.5 to 0.001 at 0.8; for the embedded model from 0.01 at 0.7 to 0.001 at 0.9."""
    penalty_schedule: PenaltySchedule = "constant"
    """Way to the full penalty: `constant`; `linear` and `cosine` rise from 0, `exponential` from a
    hundredth of it."""
    interval: int | None = None
    """Steps between two projections, which choose the mask anew. By default a 128th of all steps,
    at least 1 and at most 32."""
    score: Score = "magnitude"
    """Weights that survive a projection: the largest (`magnitude`), or those with the largest
    square times Adam's second moment (`second_moment`)."""
    start: str = DENSE
    """Model to start from: dense, or the name of a method that prunes it to --joint.start-sparsity
    first. What it pruned stays pruned."""
    start_sparsity: float | None = None
    """Sparsity of the start, below all --sparsities. Not for N:M."""

    def __post_init__(self) -> None:
        give_types_(self, "joint.")
        if isinstance(self.lr, tuple):
            require_unique("joint.lr", self.lr)
        for lr in self.lrs():
            require_positive("joint.lr", lr, "use a positive number")
        require_positive("joint.penalty", self.penalty, "use a positive number, such as 0.01")
        require_known("joint.penalty-schedule", self.penalty_schedule, get_args(PenaltySchedule))
        require_positive("joint.interval", self.interval, "use 1 or more, 32 in the paper")
        require_known("joint.score", self.score, get_args(Score))
        given, pruned = self.start_sparsity, self.start != DENSE
        require(given is None or pruned, "joint.start-sparsity", given, "needs --joint.start")
        remedy = "needs --joint.start-sparsity"
        require(given is not None or not pruned, "joint.start", self.start, remedy)
        fits = given is None or 0 < given < 1
        require(fits, "joint.start-sparsity", given, "use a fraction between 0 and 1")

    def require_start(
        self, sparsities: Sequence[float], structures: Sequence[str], within: Sequence[float] = ()
    ) -> None:
        """Refuse a start that does not fit the targets of a grid."""
        if self.start_sparsity is None:
            return
        require_known("joint.start", self.start, [DENSE, *METHODS])
        remedy = "an unstructured start has no room for --mask-structures; use dense"
        require(not structures, "joint.start", self.start, remedy)
        remedy = "the search of --within may go below it; leave one of them out"
        require(not within, "joint.start-sparsity", self.start_sparsity, remedy)
        remedy = f"use one below all --sparsities, the lowest of which is {min(sparsities):g}"
        fits = self.start_sparsity < min(sparsities)
        require(fits, "joint.start-sparsity", self.start_sparsity, remedy)

    def lrs(self) -> tuple[float, ...]:
        """Return the learning rates to choose from, none if the default is asked for."""
        if self.lr is None:
            return ()
        return self.lr if isinstance(self.lr, tuple) else (self.lr,)

    def at(self, sparsity: float, model: str = "") -> JointConfig:
        """Return the settings with the rate and penalty for a sparsity of a model of this name."""
        is_embedded = model == "embedded"
        lr, penalty = self.lr, self.penalty
        if lr is None:
            lr = between(EMBEDDED_LRS, sparsity) if is_embedded else PAPER_LR
        if penalty is None:
            penalty = between(EMBEDDED_PENALTIES if is_embedded else PAPER_PENALTIES, sparsity)
        return replace(self, lr=lr, penalty=penalty)

    def training(self, shared: Training) -> Training:
        """Return the settings of masked training with the learning rates of joint training."""
        # No objective but a loss of the whole model moves its masks.
        objective = "next_token" if shared.adapts else shared.objective
        return replace(shared, lr=self.lrs(), objective=objective)

    def steps_between(self, num_steps: int) -> int:
        """Return the steps between two projections of a training of so many steps."""
        return self.interval or min(MOST_INTERVAL, max(1, num_steps // PROJECTIONS))

    def penalty_at(self, share: float) -> float:
        """Return the penalty once this share of the steps is done, 0 to 1; see `at`."""
        assert self.penalty is not None
        rise = {
            "constant": 1.0,
            "linear": share,
            "cosine": (1 - math.cos(math.pi * share)) / 2,
            "exponential": LOWEST ** (1 - share),
        }
        return self.penalty * rise[self.penalty_schedule]

    def fields(self) -> dict[str, Any]:
        """Return what enters identities beside the training: not the start, which is a stage."""
        names = ("penalty", "penalty_schedule", "interval", "score")
        return {name: getattr(self, name) for name in names}

    def shown(self) -> Mapping[str, Any]:
        """Return the settings that rows show."""
        start = {"start": self.start, "start_sparsity": self.start_sparsity}
        return self.fields() | (start if self.start != DENSE else {})


def between(values: Mapping[float, float], sparsity: float) -> float:
    """Return the value for a sparsity to two digits; its logarithm is linear between two others."""
    import numpy as np  # Imported here, because reading flags must stay quick.

    logarithms = [math.log(value) for value in values.values()]
    return float(f"{math.exp(np.interp(sparsity, list(values), logarithms)):.2g}")


def require_joint(training: Training) -> None:
    """Refuse settings of training that joint training cannot have."""
    remedy = "joint training needs the loss of the whole model; use next_token"
    blockwise = training.objective == "reconstruct"
    require(not blockwise, "finetune.objective", training.objective, remedy)
    remedy = "joint training moves all weights; use all"
    require(training.trainable == "all", "finetune.trainable", training.trainable, remedy)
