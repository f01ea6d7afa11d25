"""Settings of one cell's science: what to calibrate on, how to prune, train and evaluate.

Every class is frozen and validates itself; a `BadInputError` names the flag, the value and the
remedy. All fields change numbers: the orchestrator has the settings of resources and results. The
docstring of a field is the help of its flag.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from core.calibration_config import CalibrationConfig, Sampling, require_window
from core.checks import require, require_known, require_positive, require_unique, require_used
from core.typed_values import give_types_

Budget = Literal["round", "total"]
Refinement = Literal["swaps"]
Allocation = Literal["uniform", "owl"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Objective = Literal["next_token", "reconstruct", "adaptive"]
Trainable = Literal["all", "bias_norm", "masklora"]
DEFAULT_LR = 3e-4


__all__ = ["CalibrationConfig", "Sampling"]


@dataclass(frozen=True)
class PruneConfig:
    """Pruning: settings of the methods. A flag that no chosen method reads is refused."""

    dampening_frac: float = 0.01
    """Dampening: this share of the mean of the Hessian's diagonal is added to the diagonal
    (`percdamp` in the SparseGPT code)."""
    block_size: int = 128
    """Number of columns whose masks are chosen together (`blocksize` in the SparseGPT code)."""
    refine: Refinement | None = None
    """`swaps`: after the method, exchange survivors of a row for pruned weights as long as the
    error of the layer falls. After alps, the error on other text often rises. By default off."""
    allocation: Allocation = "uniform"
    """Sparsity of each matrix. `uniform`: the same everywhere; `owl`: less in blocks with many
    outliers and more in others, with the same total. Not for N:M."""
    weight_bits: int | None = None
    """Bits of each surviving weight, 2 to 8. The solver rounds while it prunes, so later columns
    compensate. By default no rounding."""
    quant_group_size: int | None = None
    """Number of consecutive inputs of a row that share a scale and a zero point. By default all."""
    keep_zeros: bool = False
    """Keep the zeros of a model that is sparse already: they are the first mask of every branch. A
    target below their share leaves them as they are. Not for N:M."""

    uncompensated: tuple[str, ...] = ()
    """Matrices whose survivors keep their value, by the last part of their name. One paper reports
    lower perplexities with k_proj for OPT and v_proj for LLaMA (arXiv 2601.09176)."""

    def __post_init__(self) -> None:
        give_types_(self, "prune.")
        if self.uncompensated:
            require_unique("prune.uncompensated", self.uncompensated)
        remedy = "use a positive share, 0.01 in the paper"
        require_positive("prune.dampening-frac", self.dampening_frac, remedy)
        require_positive("prune.block-size", self.block_size, "use 1 or more, e.g. 128")
        if self.refine is not None:
            require_known("prune.refine", self.refine, get_args(Refinement))
        require_known("prune.allocation", self.allocation, get_args(Allocation))
        bits, group = self.weight_bits, self.quant_group_size
        if bits is not None:
            require(2 <= bits <= 8, "prune.weight-bits", bits, "use 2 to 8 bits, for example 4")
            remedy = "refinement would move weights off their grid; leave out --prune.refine"
            require(self.refine is None, "prune.weight-bits", bits, remedy)
            remedy = "leave out --prune.uncompensated, whose survivors are off their grid"
            require(not self.uncompensated, "prune.weight-bits", bits, remedy)
        require_positive("prune.quant-group-size", group, "use 1 or more, for example 128")
        require_used("prune.quant-group-size", group, bits is not None, "--prune.weight-bits")

    def settings(self, fields: Iterable[str]) -> dict[str, Any]:
        """Return the values of the fields that a method reads, without options that are off.

        They enter identities: stages computed before an option existed are found again.
        """
        off = {option: getattr(PruneConfig, option) for option in OPTIONS}
        values = {name: getattr(self, name) for name in fields}
        return {name: v for name, v in values.items() if name not in off or v != off[name]}


OPTIONS = ("refine", "allocation", "weight_bits", "quant_group_size", "keep_zeros", "uncompensated")
"""The fields of `PruneConfig` that are off by default."""


@dataclass(frozen=True)
class Training:
    """Settings that every round of masked training reads: optimizer, objective, parameters."""

    lr: float | tuple[float, ...] | None = None
    """Peak learning rate of AdamW. With several, each round keeps the one that has the lowest loss
    on --finetune.validation. By default 3e-4; `adaptive` sets it by the damage."""
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
    it reconstructs, above it learns these predictions. A larger gap gets a larger learning rate,
    and a round that does not lower the gap is taken back."""
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


@dataclass(frozen=True)
class FinetuneConfig(Training):
    """Fine-tuning: training after or between prune steps, in which pruned weights stay zero."""

    text: str | None = None
    """Training text, as in --calibration.text. By default embedded for the embedded model, else c4
    (wikitext2 with --protocol prune-and-tune)."""
    tokens: int | None = None
    """Number of training tokens, see --finetune.budget. By default 32,768 for the embedded model,
    else 1,048,576."""
    validation: str | None = None
    """Text on which the best of several learning rates is chosen. It may not be evaluated on. By
    default a part of the training text that nothing else reads."""
    budget: Budget = "round"
    """`round`: each round of a cell trains on --finetune.tokens; `total`: all its rounds together
    do."""
    seq_len: int | None = None
    """Tokens in a window. By default the model's maximum, at most 2048."""
    batch_tokens: int | None = None
    """Tokens in an optimizer step, over all workers. By default 2,048 for the embedded model, else
    8 windows; for `adaptive` so few of these that --finetune.tokens make 128 steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "use a positive number of tokens"
        require_positive("finetune.tokens", self.tokens, remedy)
        require_positive("finetune.batch-tokens", self.batch_tokens, remedy)
        require_window("finetune.seq-len", self.seq_len)
        several = len(self.lrs) > 1
        require_used("finetune.validation", self.validation, several, "several --finetune.lr")

    def training(self) -> Training:
        """Return the settings that every round reads."""
        names = (field.name for field in dataclasses.fields(Training))
        return Training(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation: perplexity on texts that neither calibration nor training reads, and tasks."""

    texts: tuple[str, ...] = ()
    """Texts, as in --calibration.text. By default wikitext2; embedded for the embedded model."""
    seq_len: int | None = None
    """Tokens in a window. By default the model's maximum, at most 2048."""
    stride: int | None = None
    """Tokens from the start of a window to that of the next. By default windows do not overlap."""
    max_windows: int | None = None
    """Largest number of windows: the first ones of each text. By default all."""
    tasks: tuple[str, ...] = ()
    """Zero-shot tasks: names of lm-evaluation-harness (install the extra `tasks`), or .yaml files
    that define one. Each accuracy is a column of the results."""
    task_limit: int | None = None
    """Number of examples of each task. By default all."""
    speed: bool = False
    """Measure the seconds of prefill and of decoding a token in each cell. It needs one worker."""

    def __post_init__(self) -> None:
        give_types_(self, "eval.")
        if self.texts:
            require_unique("eval.texts", self.texts)
        require_window("eval.seq-len", self.seq_len)
        require_positive("eval.stride", self.stride, "use 1 token or more")
        if self.stride is not None and self.seq_len is not None:
            remedy = f"at most the window, {self.seq_len}, or tokens are skipped"
            require(self.stride <= self.seq_len, "eval.stride", self.stride, remedy)
        require_positive("eval.max-windows", self.max_windows, "use 1 or more")
        if self.tasks:
            require_unique("eval.tasks", self.tasks)
        limit = self.task_limit
        require(limit is None or bool(self.tasks), "eval.task-limit", limit, "needs --eval.tasks")
        require_positive("eval.task-limit", limit, "use 1 or more")
