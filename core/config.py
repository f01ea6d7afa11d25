"""Settings of one cell's science: what to calibrate on, how to prune, train and evaluate.

Every class is frozen and validates itself; a `ValueError` names the flag, the value and the remedy.
Here only fields that change numbers; where work runs and where results go is the orchestrator's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from core.checks import require, require_known, require_unique

Sampling = Literal["documents", "stream"]
Budget = Literal["round", "total"]
Refinement = Literal["swaps"]
Allocation = Literal["uniform", "owl"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Objective = Literal["next_token", "reconstruct"]
Trainable = Literal["all", "bias_norm", "masklora"]


@dataclass(frozen=True)
class CalibrationConfig:
    """The text windows on which layer inputs are observed. Magnitude pruning needs none."""

    text: str | None = None
    """Hub dataset (`c4`, `wikitext2`, `ptb`; `ptb=FILE` reads a copy at hand), local file, or
    `embedded[:part]`; by default the embedded text for the embedded model, else c4."""
    num_samples: int = 128
    """Number of windows."""
    seq_len: int | None = None
    """Tokens a window; by default min(2048, the model's maximum)."""
    sampling: Sampling | None = None
    """`documents`: a random window of a random long enough document; `stream`: random windows of
    the joined text. By default the original loaders' rule: documents for c4, else stream."""

    def __post_init__(self) -> None:
        require(self.num_samples > 0, "calibration.num-samples", self.num_samples, "use 1 or more")
        if self.seq_len is not None:
            require(self.seq_len > 1, "calibration.seq-len", self.seq_len, "use 2 tokens or more")


@dataclass(frozen=True)
class PruneConfig:
    """Settings of the solvers; each method reads only the fields it names in `fields_read`."""

    dampening_frac: float = 0.01
    """Share of the mean Hessian diagonal added to the diagonal (SparseGPT's percdamp)."""
    block_size: int = 128
    """Columns whose masks are chosen together (SparseGPT's blocksize)."""
    refine: Refinement | None = None
    """`swaps`: after the method, swap a survivor of a row for a pruned weight as long as that
    lowers the layer's reconstruction error. Off by default."""
    allocation: Allocation = "uniform"
    """Sparsity of each matrix: `uniform`, or `owl`, which prunes blocks with many outlying scores
    less and others more, the whole model's count unchanged. Not for N:M."""
    weight_bits: int | None = None
    """Bits of a surviving weight, 2 to 8, rounded to within the pruning pass, so that later columns
    make up for it. Off by default."""
    quant_group_size: int | None = None
    """Consecutive inputs of a row that share a scale and a zero point; by default all of them."""

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.dampening_frac) and self.dampening_frac > 0,
            "prune.dampening-frac",
            self.dampening_frac,
            "use a positive share, 0.01 in the paper",
        )
        require(self.block_size > 0, "prune.block-size", self.block_size, "use 1 or more, e.g. 128")
        if self.refine is not None:
            require_known("prune.refine", self.refine, get_args(Refinement))
        require_known("prune.allocation", self.allocation, get_args(Allocation))
        bits, group = self.weight_bits, self.quant_group_size
        if bits is not None:
            require(2 <= bits <= 8, "prune.weight-bits", bits, "use 2 to 8 bits, for example 4")
            remedy = "refinement would move weights off their grid; leave out --prune.refine"
            require(self.refine is None, "prune.weight-bits", bits, remedy)
        if group is not None:
            require(group > 0, "prune.quant-group-size", group, "use 1 or more, for example 128")
            remedy = "has no effect without --prune.weight-bits"
            require(bits is not None, "prune.quant-group-size", group, remedy)

    def settings(self, fields: Iterable[str]) -> dict[str, Any]:
        """Values of the fields that a method reads, an option that is off left out.

        These enter identities: what was computed before there was an option is found again.
        """
        off = {option: getattr(PruneConfig, option) for option in OPTIONS}
        values = {name: getattr(self, name) for name in fields}
        return {name: v for name, v in values.items() if name not in off or v != off[name]}


OPTIONS = ("refine", "allocation", "weight_bits", "quant_group_size")
"""The fields of `PruneConfig` that are off by default."""


@dataclass(frozen=True)
class Training:
    """Settings that every round of masked training reads: optimizer, objective, parameters."""

    lr: float | tuple[float, ...] = 3e-4
    """Peak learning rate. Of several, each round of a cell keeps the one with the lowest loss on
    `validation`."""
    warmup_frac: float = 0.1
    """Share of the steps with rising learning rate; then it falls linearly to zero."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    clip_norm: float = 1.0
    """Largest global gradient norm."""
    objective: Objective = "next_token"
    """`next_token` loss, or `reconstruct`: the halves of each block, one after the other, are
    trained to give the dense block's outputs (arXiv 2510.14444)."""
    distill: bool = False
    """Learn from the dense model's predictions as well."""
    distill_temperature: float | None = None
    """Softens both models' predictions; 2 by default."""
    distill_mix: float | None = None
    """Share of the dense model's predictions in the loss, the rest is next-token loss; 0.5 by
    default."""
    trainable: Trainable = "all"
    """`all` parameters; `bias_norm`: biases and norms only; `masklora`: these, and a low-rank
    update of every pruned matrix under its mask (arXiv 2312.15230)."""
    lora_rank: int | None = None
    """Rank of `masklora`'s updates; 16 by default."""

    def __post_init__(self) -> None:
        require_unique("finetune.lr", self.lrs)
        for flag, value in (
            *(("finetune.lr", lr) for lr in self.lrs),
            ("finetune.clip-norm", self.clip_norm),
            ("finetune.distill-temperature", self.distill_temperature),
        ):
            good = value is None or (math.isfinite(value) and value > 0)
            require(good, flag, value, "use a positive number")
        require(0 <= self.warmup_frac <= 1, "finetune.warmup-frac", self.warmup_frac, "use 0 to 1")
        decay = self.weight_decay
        good = math.isfinite(decay) and decay >= 0
        require(good, "finetune.weight-decay", decay, "use 0 or more")
        require_known("finetune.objective", self.objective, get_args(Objective))
        require_known("finetune.trainable", self.trainable, get_args(Trainable))
        self._require_options_that_fit()

    def _require_options_that_fit(self) -> None:
        mix, rank = self.distill_mix, self.lora_rank
        require(mix is None or 0 < mix <= 1, "finetune.distill-mix", mix, "use 0 to 1, not 0")
        require(rank is None or rank > 0, "finetune.lora-rank", rank, "use 1 or more, e.g. 16")
        remedy = "reconstruct already learns from the dense model; leave out --finetune.distill"
        allowed = not (self.distill and self.objective == "reconstruct")
        require(allowed, "finetune.objective", self.objective, remedy)
        for flag, value, needed, given in (
            ("distill-temperature", self.distill_temperature, "--finetune.distill", self.distill),
            ("distill-mix", mix, "--finetune.distill", self.distill),
            ("lora-rank", rank, "--finetune.trainable masklora", self.trainable == "masklora"),
        ):
            require_used(f"finetune.{flag}", value, given, needed)

    @property
    def lrs(self) -> tuple[float, ...]:
        """The learning rates to choose from, one or more."""
        return self.lr if isinstance(self.lr, tuple) else (self.lr,)

    def recovery(self) -> dict[str, Any]:
        """Return the settings that differ from plain next-token training of all parameters.

        They enter identities: stages trained before an option existed are found again.
        """
        found: dict[str, Any] = {}
        if self.objective != "next_token":
            found["objective"] = self.objective
        if self.distill:
            temperature, mix = self.distill_temperature or 2.0, self.distill_mix or 0.5
            found["distill"] = {"temperature": temperature, "mix": mix}
        if self.trainable != "all":
            found["trainable"] = self.trainable
        if self.trainable == "masklora":
            found["lora_rank"] = self.lora_rank or 16
        return found

    def fields(self) -> dict[str, Any]:
        """Return the settings as they enter identities."""
        return {
            "lr": self.lrs[0] if len(self.lrs) == 1 else list(self.lrs),
            "warmup_frac": self.warmup_frac,
            "weight_decay": self.weight_decay,
            "clip_norm": self.clip_norm,
            **self.recovery(),
        }


@dataclass(frozen=True)
class FinetuneConfig(Training):
    """Masked training between or after prune steps: AdamW, warm-up, decay, no dropout."""

    text: str | None = None
    """As `calibration.text`; by default the embedded train part, else c4 (wikitext2 under
    `--protocol prune-and-tune`)."""
    tokens: int | None = None
    """Training tokens a round (`budget=round`) or a cell (`budget=total`); by default 32,768 for
    the embedded model, else 1,048,576."""
    validation: str | None = None
    """Text on which one of several learning rates is chosen, never one evaluated on; by default a
    part of the training text's source that no other role reads."""
    budget: Budget = "round"
    """Whether `tokens` is spent in each round or in all rounds of a cell together."""
    seq_len: int | None = None
    """Tokens a window; by default min(2048, the model's maximum)."""
    batch_tokens: int | None = None
    """Tokens an optimizer step over all workers; by default 2,048 for the embedded model, else
    8 windows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for flag, value in (
            ("finetune.tokens", self.tokens),
            ("finetune.batch-tokens", self.batch_tokens),
        ):
            require(value is None or value > 0, flag, value, "use a positive number of tokens")
        if self.seq_len is not None:
            require(self.seq_len > 1, "finetune.seq-len", self.seq_len, "use 2 tokens or more")
        several = len(self.lrs) > 1
        require_used("finetune.validation", self.validation, several, "several --finetune.lr")

    def training(self) -> Training:
        """Return the settings that every round reads."""
        names = (field.name for field in dataclasses.fields(Training))
        return Training(**{name: getattr(self, name) for name in names})


def require_used(flag: str, value: object, is_used: bool, needed: str) -> None:
    """Refuse a value that nothing reads without another flag."""
    require(value is None or is_used, flag, value, f"has no effect without {needed}")


@dataclass(frozen=True)
class EvalConfig:
    """Perplexity on held-out text."""

    texts: tuple[str, ...] = ()
    """Texts to evaluate on; by default the embedded test part, else wikitext2."""
    seq_len: int | None = None
    """Tokens a window; by default min(2048, the model's maximum)."""
    stride: int | None = None
    """Step between windows; equal to `seq_len` by default (non-overlapping)."""
    max_windows: int | None = None
    """Evaluate on the first windows only; all by default."""
    tasks: tuple[str, ...] = ()
    """Zero-shot tasks of lm-evaluation-harness (the extra `tasks`) by name, or .yaml files that
    define one; accuracies become further columns."""
    task_limit: int | None = None
    """Only so many examples of each task; all by default."""

    def __post_init__(self) -> None:
        if self.texts:
            require_unique("eval.texts", self.texts)
        if self.seq_len is not None:
            require(self.seq_len > 1, "eval.seq-len", self.seq_len, "use 2 tokens or more")
        if self.stride is not None:
            require(self.stride > 0, "eval.stride", self.stride, "use 1 token or more")
            if self.seq_len is not None:
                require(
                    self.stride <= self.seq_len,
                    "eval.stride",
                    self.stride,
                    f"at most the window, {self.seq_len}, or tokens are skipped",
                )
        if self.max_windows is not None:
            require(self.max_windows > 0, "eval.max-windows", self.max_windows, "use 1 or more")
        if self.tasks:
            require_unique("eval.tasks", self.tasks)
        if self.task_limit is not None:
            require(bool(self.tasks), "eval.task-limit", self.task_limit, "needs --eval.tasks")
            require(self.task_limit > 0, "eval.task-limit", self.task_limit, "use 1 or more")
