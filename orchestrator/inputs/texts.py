"""Texts of one model's cells: resolved, checked, and given their windows, role by role."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

from core.checks import require
from core.models.facts import ModelFacts
from core.models.families import needs_bos
from core.texts.named_texts import Role
from core.texts.protocols import PROTOCOLS, Protocol
from core.texts.sources import Text, same_text
from core.texts.windows import default_sampling
from orchestrator.config import SweepConfig
from orchestrator.inputs.text_names import TextNames
from orchestrator.plan.inputs import (
    CalibrationText,
    EvaluationText,
    TrainingText,
    ValidationText,
)

VALIDATION_TOKENS = 65_536
"""Most tokens that a learning rate is chosen on; every round makes that choice."""


@dataclass
class ModelTexts:
    """Resolves the texts of one model."""

    config: SweepConfig
    facts: ModelFacts
    known: dict[tuple[str, str, str], Text] = field(default_factory=dict)
    """Texts by protocol, name and role, so that several blocks read a file once."""
    found: dict[str, Text] = field(default_factory=dict)
    """Texts by the flag that they come from, followed by the name where a flag has several."""

    @property
    def protocol(self) -> Protocol:
        """The protocol of the sweep."""
        return PROTOCOLS[self.config.grid.protocol]

    @property
    def bos(self) -> bool:
        """True if each window begins with BOS, as the model's family needs it."""
        return needs_bos(self.facts.model_type)

    def by_identity(self) -> dict[str, Text]:
        """Return the texts by their identity."""
        return {text.identity: text for text in self.found.values()}

    def resolve(self, name: str, role: Role) -> Text:
        """Return a text of the protocol."""
        key = (self.config.grid.protocol, name, role)
        if key not in self.known:
            self.known[key] = self.protocol.resolve(name, role)
        return self.known[key]

    def window_length(self, flag: str, wanted: int | None, longest: int | None) -> int:
        """Return the length asked for, or the model's maximum up to `longest`.

        Raises:
            ValueError: the model reads fewer tokens.
        """
        most = self.facts.max_seq_len
        if wanted is None:
            return min(longest or most, most)
        remedy = f"{self.facts.name} reads at most {most} tokens"
        require(wanted <= most, flag, wanted, remedy)
        return wanted

    def calibration(self, name: str) -> CalibrationText:
        """Return calibration text and windows."""
        text = self.found["calibration.text"] = self.resolve(name, "calibration")
        config, workers = self.config.calibration, self.config.resources.num_workers
        remedy = f"needs a window for each of {workers} workers"
        enough = config.num_samples >= workers
        require(enough, "calibration.num-samples", config.num_samples, remedy)
        longest = self.protocol.max_seq_len
        seq_len = self.window_length("calibration.seq-len", config.seq_len, longest)
        sampling = config.sampling or default_sampling(text)
        windows = (config.num_samples, seq_len, sampling)
        experts = config.experts() if self.facts.has_experts else None
        return CalibrationText(text.label, text.identity, *windows, bos=self.bos, experts=experts)

    def training(self, name: str) -> TrainingText:
        """Return training text and window length."""
        text = self.found["finetune.text"] = self.resolve(name, "finetune")
        wanted, longest = self.config.finetune.seq_len, Protocol.max_seq_len
        seq_len = self.window_length("finetune.seq-len", wanted, longest)
        return TrainingText(text.label, text.identity, seq_len, bos=self.bos)

    def validation(self, name: str, seq_len: int) -> ValidationText:
        """Return the text that a learning rate is chosen on, in windows like those of training."""
        text = self.found["finetune.validation"] = self.resolve(name, "validation")
        windows = (seq_len, VALIDATION_TOKENS // seq_len)
        return ValidationText(text.label, text.identity, *windows, bos=self.bos)

    def evaluations(self, names: tuple[str, ...]) -> tuple[EvaluationText, ...]:
        """Return evaluation texts, windows and stride."""
        config, protocol = self.config.eval, self.protocol
        wanted = config.seq_len or protocol.eval_seq_len
        seq_len = self.window_length("eval.seq-len", wanted, protocol.max_seq_len)
        stride = config.stride or protocol.eval_stride or seq_len
        remedy = f"at most the window, {seq_len} tokens"
        require(stride <= seq_len, "eval.stride", stride, remedy)
        inputs: list[EvaluationText] = []
        for name in names:
            text = self.found[f"eval.texts {name}"] = self.resolve(name, "evaluation")
            for each in inputs:
                is_new = text.label != each.name and text.identity != each.text
                remedy = f"{each.name} is evaluated already, and is the same; name a text once"
                require(is_new, "eval.texts", name, remedy)
            reading = protocol.reading(name, "evaluation")
            most = config.max_windows or reading.max_windows
            windows = (seq_len, stride, most, reading.num_samples)
            inputs.append(EvaluationText(text.label, text.identity, *windows, bos=self.bos))
        return tuple(inputs)

    def require_disjoint(self) -> None:
        """Refuse one text in two roles: measured recovery would be memory.

        Two evaluations may read one file in two ways: as rows of WikiText and as prose.
        """
        for one, other in itertools.combinations(self.found.values(), 2):
            is_shared = one.role != other.role and same_text(one, other)
            remedy = (
                f"is the same text as --{one.flag} {one.name}; calibration, training and "
                "evaluation need disjoint texts"
            )
            require(not is_shared, other.flag, other.name, remedy)


@dataclass(frozen=True)
class ResolvedTexts:
    """Texts of one model by role; None for a role without one."""

    calibration: CalibrationText | None
    training: TrainingText | None
    validation: ValidationText | None
    evaluations: tuple[EvaluationText, ...]


def resolve_texts(texts: ModelTexts, names: TextNames) -> ResolvedTexts:
    """Return the texts of all roles.

    Raises:
        ValueError: one line naming flag, value and remedy.
    """
    training = validation = None
    calibration = None if names.calibration is None else texts.calibration(names.calibration)
    if names.finetune is not None:
        training = texts.training(names.finetune)
        if names.validation is not None:
            validation = texts.validation(names.validation, training.seq_len)
    evaluations = texts.evaluations(names.evaluations)
    texts.require_disjoint()
    return ResolvedTexts(calibration, training, validation, evaluations)
