"""Stage kinds that train: one frozen dataclass each; `kinds.py` has the table of all kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.config import PruneConfig
from core.joint_config import JointConfig
from core.methods import JOINT_METHODS
from core.targets import Target
from core.training_config import GAP_TOKENS, SHORT_ROUND, Training
from orchestrator.plan.inputs import Reading, TrainingDraw, TrainingText, ValidationText
from orchestrator.plan.work import Counts, Operations, Work

FINETUNE_VERSION = 1
TRAINING_VERSIONS = {"objective": 1, "distill": 1, "trainable": 1, "mixed_precision": 1}
"""Version of each option of `Training`; part of an identity only where the option is on.

`mixed_precision` is on where a whole model trains in bf16 (`core/training/mixed_precision.py`).

Raise a version of this file whenever the numbers that it stands for change.
"""
LONG_ROUND_VERSION, LATER_ROUND_VERSION = 3, 2
"""Versions of the objective `adaptive` where its numbers can differ from those of the first: in
rounds of many tokens, and in short rounds after another."""
SPLITTING_SHARE = 1.5
"""Memory that a step of joint training moves, as a multiple of that of masked training."""


@dataclass(frozen=True)
class Finetune(Work):
    """One round of masked training."""

    kind = "finetune"
    stores_weights = True
    trains = True

    text: TrainingText
    tokens: int
    batch_tokens: int
    training: Training
    dtype: str
    seed: int
    round: int
    validation: ValidationText | None = None
    is_control: bool = False
    """True for the dense model. Adaptive training has nothing to teach it; its identity does not
    say so, since that of its parent does."""

    def fields(self) -> dict[str, Any]:
        """Return text, tokens, settings, and the versions of the options that are on."""
        options = {*self.training.options()}
        if self.mixes_precision:
            options.add("mixed_precision")
        versions = {f"{key}_version": v for key, v in TRAINING_VERSIONS.items() if key in options}
        # The dense model is not trained.
        if self.training.adapts and not self.is_control:
            # The first round of few tokens is as it was.
            if self.tokens > SHORT_ROUND:
                versions["objective_version"] = LONG_ROUND_VERSION
            elif self.round > 1:
                versions["objective_version"] = LATER_ROUND_VERSION
        choice = {} if self.validation is None else {"validation": self.validation.fields()}
        return {
            "version": FINETUNE_VERSION,
            "text": self.text.fields(),
            "tokens": self.tokens,
            "batch_tokens": self.batch_tokens,
            "dtype": self.dtype,
            "seed": self.seed,
            "round": self.round,
            **self.training.fields(),
            **versions,
            **choice,
        }

    def reads(self, name: str) -> bool:
        """Return True for settings of training."""
        return name.startswith("finetune.")

    @property
    def mixes_precision(self) -> bool:
        """True if the whole model computes in bf16 on float32 weights."""
        # Reconstruction trains copies of single blocks, with autocast.
        return self.dtype == "bfloat16" and self.training.objective != "reconstruct"

    def draws(self) -> bool:
        """Return True: a seed orders the windows."""
        return True

    def text_name(self) -> str | None:
        """Return the name of the training text."""
        return self.text.name

    def readings(self) -> tuple[Reading, ...]:
        """Return the training text, and the one that a learning rate is chosen on."""
        return (self.text,) if self.validation is None else (self.text, self.validation)

    @property
    def learns(self) -> bool:
        """False for the dense model where training adapts: it has no gap to itself."""
        return not (self.training.adapts and self.is_control)

    @property
    def num_windows(self) -> int:
        """Windows of the round; a budget holds whole windows."""
        return self.tokens // self.text.seq_len

    @property
    def step_windows(self) -> int:
        """Windows of an optimizer step: at least one, and no more than the round has."""
        return max(1, min(self.num_windows, self.batch_tokens // self.text.seq_len))

    def training_draw(self) -> TrainingDraw:
        """Return the windows of this round."""
        return TrainingDraw(self.text, self.num_windows, self.seed, self.round)

    def operations(self, model: Counts, text_tokens: int) -> Operations:
        """Return forward and backward passes for each learning rate.

        Of the dense model adaptive training only measures the gap to itself.
        """
        seq_len, training = self.text.seq_len, self.training
        if not self.learns:
            tokens = min(self.tokens, max(seq_len, GAP_TOKENS))
            return {("training", self.dtype): 2 * model.forward_operations(tokens, seq_len)}
        if training.objective in ("reconstruct", "adaptive"):
            # The dense block once; of ours each half's output and its gradient, then all once more.
            once = model.forward_operations(self.tokens, seq_len, head=False) * 16 / 3
        else:
            passes = 4 if training.distill else 3
            once = model.forward_operations(self.tokens, seq_len) * passes
        return {("training", self.dtype): training.num_trainings * once}

    def further_seconds(self, model: Counts) -> float:
        """Return what the optimizer takes to move weights and moments."""
        if not self.learns:
            return 0.0
        steps = -(-self.num_windows // self.step_windows)
        return model.optimizer_seconds(self.training.num_trainings * steps)


@dataclass(frozen=True)
class Joint(Work):
    """Training that ends with a mask (ELSA); all that it shares with masked training is `round`."""

    kind = "joint"
    stores_weights = True
    changes_masks = True
    trains = True
    seconds_column = "finetune_seconds"

    method: str
    settings: PruneConfig
    """The settings of the grid; only those that the method reads count."""
    target: Target
    joint: JointConfig
    round: Finetune
    """Text, tokens, loss and the rates of joint training."""

    def fields(self) -> dict[str, Any]:
        """Return method, version, target, settings, and the fields of the training."""
        facts = JOINT_METHODS[self.method]
        return {
            "method": self.method,
            "version": facts.version,
            "settings": self.settings.settings(facts.fields_read),
            "sparsity": self.target.sparsity,
            "mask_structure": self.target.mask_structure,
            "seed": self.round.seed,
            **self.joint.fields(),
            "training": self.round.fields(),
        }

    def reads(self, name: str) -> bool:
        """Return True for settings of joint training, and of what it shares with others."""
        group, _, field = name.partition(".")
        if group == "prune":
            return field in JOINT_METHODS[self.method].fields_read
        return group == "joint" or self.round.reads(name) and field not in ("lr", "budget")

    def shown(self) -> dict[str, Any]:
        """Return the settings that rows show, with those of the start."""
        facts = JOINT_METHODS[self.method]
        return {**self.settings.settings(facts.fields_read), **self.joint.shown()}

    def draws(self) -> bool:
        """Return True: a seed orders the windows."""
        return True

    def text_name(self) -> str | None:
        """Return the name of the training text."""
        return self.round.text_name()

    def target_after(self) -> Target | None:
        """Return the target."""
        return self.target

    def readings(self) -> tuple[Reading, ...]:
        """Return the training text, and the one that a learning rate is chosen on."""
        return self.round.readings()

    def training_draw(self) -> TrainingDraw:
        """Return the windows that it trains on."""
        return self.round.training_draw()

    def operations(self, model: Counts, text_tokens: int) -> Operations:
        """Return forward and backward passes for each learning rate."""
        return self.round.operations(model, text_tokens)

    def further_seconds(self, model: Counts) -> float:
        """Return what the optimizer takes to move weights, moments, copies and duals."""
        return SPLITTING_SHARE * self.round.further_seconds(model)


def trained_rounds(work: Work) -> list[Finetune]:
    """Return the round of training that a stage is; none of other stages."""
    if isinstance(work, Joint):
        return [work.round]
    return [work] if isinstance(work, Finetune) else []
