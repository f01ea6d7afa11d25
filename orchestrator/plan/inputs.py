"""Models and texts of a grid as plain values: `inputs/` resolves them, planning reads them.

A text stands here once for each role. Its `fields` enter stage identities; its name does not, so
two names of one content share stages.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from core.calibration_config import ExpertTokens, Sampling
from orchestrator.plan.identity import values_of

EXPERTS_VERSION = 1
"""Raise it whenever the numbers change that are observed of experts."""
ADAPTIVE_STEPS, JOINT_STEPS = 512, 4_096
"""Optimizer steps that a round of these kinds of training takes, if it has so many windows: more
steps of fewer windows recover more. ELSA takes 4,096 in its paper."""
MOST_WINDOWS = 8
"""Windows in an optimizer step by default, and at most in one of these kinds of training."""


@dataclass(frozen=True)
class TextInput:
    """A text in one role; a subclass for each role adds the windows."""

    name: str
    """Name in results: as the user gave it, without the file of a local copy."""
    text: str
    """Identity of the content and of its reading."""
    bos: bool = field(default=False, kw_only=True)
    """True if each window is BOS and the next `seq_len - 1` tokens."""

    def fields(self) -> dict[str, Any]:
        """Return all that numbers depend on; `bos` stands only where windows begin with it."""
        left_out = ("name",) if self.bos else ("name", "bos")
        return {name: value for name, value in values_of(self).items() if name not in left_out}

    def stream_key(self, role: str) -> dict[str, Any]:
        """Return what names the token file of the whole stream, beside the tokenizer."""
        return {"stream": self.text, "role": role, **({"bos": True} if self.bos else {})}

    def record(self) -> dict[str, Any]:
        """Return the text as a sweep's record holds it."""
        return {"name": self.name, "fields": self.fields()}


@dataclass(frozen=True)
class CalibrationText(TextInput):
    """Text that the inputs of layers are observed on."""

    num_samples: int
    seq_len: int
    sampling: Sampling
    experts: ExpertTokens | None = field(default=None, kw_only=True)
    """The tokens on which experts are observed; None for a model without experts."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all windows."""
        return self.num_samples * self.seq_len

    def fields(self) -> dict[str, Any]:
        """Return all that numbers depend on; `experts` stands only where there are some."""
        found = super().fields()
        del found["experts"]
        if self.experts is not None:
            found["experts"] = {"version": EXPERTS_VERSION, **values_of(self.experts)}
        return found

    def drawn(self) -> dict[str, Any]:
        """Return all that the windows depend on."""
        return {name: value for name, value in self.fields().items() if name != "experts"}


@dataclass(frozen=True)
class TrainingText(TextInput):
    """Text that a model is trained on, read as one stream."""

    seq_len: int

    def tokens_key(self) -> dict[str, Any]:
        """Return what names its token file, beside the tokenizer."""
        return self.stream_key("finetune")


@dataclass(frozen=True)
class TrainingDraw:
    """Training windows of one round, which a seed draws from all tokens of a text."""

    text: TrainingText
    num_windows: int
    seed: int
    round: int

    def tokens_key(self) -> dict[str, Any]:
        """Return what names its token file, beside the tokenizer."""
        drawn = {"num_windows": self.num_windows, "seed": self.seed, "round": self.round}
        return {"training": self.text.fields(), **drawn}


@dataclass(frozen=True)
class ValidationText(TextInput):
    """Text that one of several learning rates is chosen on; its token file is an evaluation's."""

    seq_len: int
    max_windows: int

    def tokens_key(self) -> dict[str, Any]:
        """Return what names its token file, beside the tokenizer."""
        return self.stream_key("evaluation")


@dataclass(frozen=True)
class EvaluationText(TextInput):
    """Text that perplexity is measured on."""

    seq_len: int
    stride: int
    max_windows: int | None = None
    num_samples: int | None = None
    """Number of random windows; None reads the text as one stream."""

    def fields(self) -> dict[str, Any]:
        """Return all that numbers depend on; a stream has no `num_samples`."""
        found = super().fields()
        if self.num_samples is None:
            del found["num_samples"]
        return found

    def tokens_key(self) -> dict[str, Any]:
        """Return what names its token file, beside the tokenizer."""
        key = self.stream_key("evaluation")
        if self.num_samples is not None:
            key |= {"num_samples": self.num_samples, "seq_len": self.seq_len}
        return key


@dataclass(frozen=True)
class Draw:
    """Calibration windows that one seed draws from a text."""

    text: CalibrationText
    seed: int

    def tokens_key(self) -> dict[str, Any]:
        """Return what names its token file, beside the tokenizer."""
        return {"calibration": self.text.drawn(), "seed": self.seed}


Reading = Draw | TrainingText | ValidationText | EvaluationText
"""Tokens that a stage reads; each has one token file. Instead of that of a training text there may
be one for each `TrainingDraw`."""


@dataclass(frozen=True)
class TaskInput:
    """A zero-shot task of lm-evaluation-harness."""

    name: str
    """Name in the harness, or the absolute path of a definition."""
    identity: str
    """The name, or `sha256:` of the definition."""
    label: str
    """Name in columns and tables."""


@dataclass(frozen=True)
class ModelInputs:
    """A model and its resolved texts: all that planning needs to know of it."""

    name: str
    identity: str
    dtype: str
    """Dtype of loading, calibration and evaluation."""
    training_dtype: str
    calibration: CalibrationText | None
    finetune: TrainingText | None
    finetune_tokens: int
    """Training tokens of a round or of a cell, as the budget says."""
    batch_tokens: int
    """Training tokens of one optimizer step."""
    evaluations: tuple[EvaluationText, ...]
    validation: ValidationText | None = None
    batch_is_given: bool = True
    """False if adaptive and joint training take as many tokens in a step as `step_tokens` says."""

    def step_tokens(self, num_steps: int, tokens: int) -> int:
        """Return the tokens of one optimizer step where `tokens` should make `num_steps` of them.

        A step has one to eight windows, unless its tokens were given.
        """
        if self.batch_is_given:
            return self.batch_tokens
        assert self.finetune is not None
        windows = tokens // self.finetune.seq_len // num_steps
        return max(1, min(MOST_WINDOWS, windows)) * self.finetune.seq_len

    def record(self) -> dict[str, Any]:
        """Return the inputs as a sweep's record holds them."""

        def told(value: Any) -> Any:
            if isinstance(value, tuple):
                return [told(each) for each in value]
            return value.record() if isinstance(value, TextInput) else value

        return {f.name: told(getattr(self, f.name)) for f in dataclasses.fields(self)}
