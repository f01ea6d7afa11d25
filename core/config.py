"""Settings of one cell's science: what to calibrate on, how to prune, train and evaluate.

Every class is frozen and validates itself; a `BadInputError` names the flag, the value and the
remedy. All fields change numbers: the orchestrator has the settings of resources and results. The
docstring of a field is the help of its flag.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from core.calibration_config import CalibrationConfig, Sampling, require_window
from core.checks import require, require_known, require_positive, require_unique, require_used
from core.training_config import Training
from core.typed_values import give_types_

Budget = Literal["round", "total"]
Refinement = Literal["swaps"]
Allocation = Literal["uniform", "owl"]
DType = Literal["auto", "float32", "bfloat16", "float16"]


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

    routers: bool = False
    """Prune routers and gates too. They are small, and each of their weights decides much, so by
    default they are left out."""
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


OPTIONS = ("refine", "allocation", "weight_bits", "quant_group_size", "keep_zeros", "routers")
OPTIONS += ("uncompensated",)
"""The fields of `PruneConfig` that are off by default."""


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
    """Text on which the best of several learning rates (--finetune.lr, --joint.lr) is chosen. It
    may not be evaluated on. By default a part of the training text that nothing else reads."""
    budget: Budget = "round"
    """`round`: each round of a cell trains on --finetune.tokens; `total`: all its rounds together
    do."""
    seq_len: int | None = None
    """Tokens in a window. By default the model's maximum, at most 2048."""
    batch_tokens: int | None = None
    """Tokens in an optimizer step, over all workers. By default 2,048 for the embedded model, else
    8 windows; for `adaptive` so few of these that a round takes 512 steps, for elsa so few that it
    takes 4,096."""

    def __post_init__(self) -> None:
        super().__post_init__()
        remedy = "use a positive number of tokens"
        require_positive("finetune.tokens", self.tokens, remedy)
        require_positive("finetune.batch-tokens", self.batch_tokens, remedy)
        require_window("finetune.seq-len", self.seq_len)

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
