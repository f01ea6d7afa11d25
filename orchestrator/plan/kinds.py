"""Stage kinds: one frozen dataclass each, and the table of all of them.

Those that train are in `training_kinds.py`.

A class says everything about its kind: the fields that its identity is made of, whether it stores
weights, changes masks or trains, the tokens that it reads, where it runs and what it costs. The one
other place that knows kinds is `trial/runners.py`, which runs them. Nothing compares kinds by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.checks import BadInputError
from core.config import PruneConfig
from core.methods import METHODS, OPTION_VERSIONS
from core.targets import Target
from orchestrator.plan.identity import values_of
from orchestrator.plan.inputs import CalibrationText, Draw, EvaluationText, Reading, TaskInput
from orchestrator.plan.training_kinds import TRAINING_VERSIONS, Finetune, Joint
from orchestrator.plan.work import Counts, Operations, Work

__all__ = ["KINDS", "TRAINING_VERSIONS", "Dense", "Evaluate", "Finetune", "Joint", "Prune", "Speed"]
__all__ += ["Tasks", "kind_of"]

EVALUATE_VERSION = 1
TASKS_VERSION = 1
SPEED_VERSION = 1
"""Raise a version of this file whenever the numbers that it stands for change."""


@dataclass(frozen=True)
class Dense(Work):
    """The dense model, the root of all stages; it is read from its source and never run."""

    kind = "dense"
    runs_in = "nowhere"

    model: str
    """Identity of the model."""
    dtype: str

    def fields(self) -> dict[str, Any]:
        """Return model and dtype."""
        return {"model": self.model, "dtype": self.dtype}


@dataclass(frozen=True)
class Prune(Work):
    """Pruning to one target."""

    kind = "prune"
    stores_weights = True
    changes_masks = True

    method: str
    settings: PruneConfig
    """The settings of the grid; only those that the method reads count."""
    target: Target
    draw: Draw | None
    """Calibration windows; None where the method needs none."""
    dtype: str
    """Dtype of forward passes; part of the identity where there are some."""

    def fields(self) -> dict[str, Any]:
        """Return method, version, target and what calibration depends on."""
        facts = METHODS[self.method]
        settings = self.settings.settings(facts.fields_read)
        found: dict[str, Any] = {
            "method": self.method,
            "version": facts.version,
            "settings": settings,
            "sparsity": self.target.sparsity,
            "mask_structure": self.target.mask_structure,
        }
        found |= {f"{name}_version": v for name, v in OPTION_VERSIONS.items() if name in settings}
        if self.draw is not None:
            calibration, seed = self.draw.text.fields(), self.draw.seed
            found |= {"calibration": calibration, "seed": seed, "dtype": self.dtype}
        return found

    def reads(self, name: str) -> bool:
        """Return True for settings of the method, and for calibration if it looks at inputs."""
        group, _, field = name.partition(".")
        if group == "calibration":
            return self.draw is not None
        return group == "prune" and field in METHODS[self.method].fields_read

    @property
    def calibration(self) -> CalibrationText | None:
        """The calibration text; None where the method needs none."""
        return None if self.draw is None else self.draw.text

    def text_name(self) -> str | None:
        """Return the name of the calibration text."""
        return None if self.draw is None else self.draw.text.name

    def draws(self) -> bool:
        """Return True if there are calibration windows."""
        return self.draw is not None

    def target_after(self) -> Target | None:
        """Return the target."""
        return self.target

    def readings(self) -> tuple[Reading, ...]:
        """Return the calibration windows."""
        return () if self.draw is None else (self.draw,)

    def operations(self, model: Counts, text_tokens: int) -> Operations:
        """Return the forward passes over the calibration windows, and the solves."""
        if self.calibration is None:
            return {}
        asked = self.method, self.settings, self.calibration
        found = {("forward", self.dtype): model.prune_operations(*asked)}
        if solving := model.solve_operations(*asked):
            found["solve", "float32"] = solving
        return found

    def further_seconds(self, model: Counts) -> float:
        """Return what solves take beside their products."""
        if self.calibration is None:
            return 0.0
        return model.solve_seconds(self.method, self.settings, self.calibration)


@dataclass(frozen=True)
class Evaluate(Work):
    """Perplexity on one text."""

    kind = "evaluate"

    text: EvaluationText
    dtype: str

    def fields(self) -> dict[str, Any]:
        """Return text, windows and dtype."""
        return {"version": EVALUATE_VERSION, "dtype": self.dtype, "text": self.text.fields()}

    def text_name(self) -> str | None:
        """Return the name of the text."""
        return self.text.name

    def readings(self) -> tuple[Reading, ...]:
        """Return the text."""
        return (self.text,)

    def operations(self, model: Counts, text_tokens: int) -> Operations:
        """Return a forward pass over all windows; windows that overlap are run whole."""
        seq_len = self.text.seq_len
        tokens = int(text_tokens * seq_len / self.text.stride)
        if self.text.max_windows:
            tokens = min(tokens, self.text.max_windows * seq_len)
        return {("forward", self.dtype): model.forward_operations(tokens, seq_len)}


@dataclass(frozen=True)
class Tasks(Work):
    """One zero-shot task; the harness wants a process without a process group."""

    kind = "tasks"
    runs_in = "task"

    task: TaskInput
    limit: int | None
    """Examples of each task at most."""
    dtype: str

    def text_name(self) -> str | None:
        """Return the label of the task."""
        return self.task.label

    def fields(self) -> dict[str, Any]:
        """Return task, limit and dtype."""
        known = {"task": self.task.identity, "limit": self.limit, "dtype": self.dtype}
        return {"version": TASKS_VERSION, **known}


@dataclass(frozen=True)
class Speed(Work):
    """Seconds of prefill and of decoding one token, on the device of the sweep."""

    kind = "speed"
    circumstances = ("device",)

    dtype: str
    batch: int = 1
    prompt_tokens: int = 512
    new_tokens: int = 32
    """Tokens decoded after each prompt."""
    repeats: int = 9

    def fields(self) -> dict[str, Any]:
        """Return dtype and sizes."""
        return {"version": SPEED_VERSION, **values_of(self)}

    @property
    def turns(self) -> int:
        """Prompts that are read, with those before the first that counts."""
        from core.measures.speed import WARM_UPS  # Imported here: it takes torch.

        return WARM_UPS + self.repeats

    def prompt_length(self, max_seq_len: int) -> int:
        """Return the tokens of a prompt of a model that reads at most so many."""
        return max(1, min(self.prompt_tokens, max_seq_len - self.new_tokens))

    def operations(self, model: Counts, text_tokens: int) -> Operations:
        """Return the forward passes of all prompts; only their last tokens are scored."""
        length = self.prompt_length(model.max_seq_len)
        tokens = self.batch * self.turns * length
        return {("forward", self.dtype): model.forward_operations(tokens, length, head=False)}

    def further_seconds(self, model: Counts) -> float:
        """Return what the tokens after the prompts take."""
        return model.decode_seconds(self.turns * self.new_tokens)


KINDS: dict[str, type[Work]] = {
    work.kind: work for work in (Dense, Prune, Finetune, Joint, Evaluate, Tasks, Speed)
}
"""All kinds by their name in manifests, in the order of the flow."""


def kind_of(manifest: Mapping[str, Any]) -> type[Work]:
    """Return the kind of a stored stage.

    Raises:
        BadInputError: this version does not know the kind.
    """
    name = manifest.get("kind")
    if name not in KINDS:
        line = f"stage {manifest.get('id')} is of kind {name!r}, which this version does not know"
        raise BadInputError(f"{line}; use a newer one")
    return KINDS[name]
