"""The base of all stage kinds, and the counts of a model that their cost follows from."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol

from core.config import PruneConfig
from core.targets import Target
from orchestrator.plan.inputs import CalibrationText, Reading, TrainingDraw

Operations = dict[tuple[str, str], float]
"""Operations by kind of work (`forward`, `training`, `solve`) and dtype."""


class Counts(Protocol):
    """Counts of a model that the cost of a stage follows from; `estimate/` has them."""

    def forward_operations(self, tokens: int, seq_len: int, head: bool = True) -> float:
        """Return the operations of a forward pass."""
        ...

    def prune_operations(self, method: str, settings: PruneConfig, text: CalibrationText) -> float:
        """Return the operations of the forward passes of a prune stage."""
        ...

    def solve_operations(self, method: str, settings: PruneConfig, text: CalibrationText) -> float:
        """Return the operations of all statistics and solves."""
        ...

    def solve_seconds(self, method: str, settings: PruneConfig, text: CalibrationText) -> float:
        """Return the seconds of all solves beside their products."""
        ...

    def optimizer_seconds(self, steps: float) -> float:
        """Return the seconds that optimizer steps take to move memory."""
        ...

    def decode_seconds(self, tokens: int) -> float:
        """Return the seconds of decoding tokens one after another."""
        ...

    @property
    def max_seq_len(self) -> int:
        """The most tokens of a window."""
        ...


class Work:
    """Base of all kinds: what one stage does to its parent's weights."""

    kind: ClassVar[str]
    """Name in identities and manifests."""
    runs_in: ClassVar[Literal["trial", "task", "nowhere"]] = "trial"
    """`trial`: in a worker group; `task`: in a Ray task of its own, after the trials."""
    stores_weights: ClassVar[bool] = False
    """True if the stage's output is a model, which further stages can start from."""
    changes_masks: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    seconds_column: ClassVar[str | None] = None
    """Column of rows that its seconds count in; None for `KIND_seconds`."""
    circumstances: ClassVar[tuple[str, ...]] = ()
    """Facts of the run that the numbers depend on, such as `device`; they enter the identity."""

    def fields(self) -> dict[str, Any]:
        """Return all that the identity is made of, beside kind and parent, as JSON values."""
        raise NotImplementedError

    def reads(self, name: str) -> bool:
        """Return True if the numbers depend on a setting, such as `prune.refine`."""
        return False

    def text_name(self) -> str | None:
        """Return the name of the text or task that rows show; None where there is none."""
        return None

    def draws(self) -> bool:
        """Return True if the numbers depend on a seed."""
        return False

    def target_after(self) -> Target | None:
        """Return the target that the weights are pruned to; None keeps the parent's."""
        return None

    def readings(self) -> tuple[Reading, ...]:
        """Return the tokens that the stage reads."""
        return ()

    def training_draw(self) -> TrainingDraw | None:
        """Return the windows that the stage trains on; None where it does not train."""
        return None

    def operations(self, model: Counts, text_tokens: int) -> Operations:
        """Return the operations that the stage takes.

        Args:
            model: counts of the model.
            text_tokens: tokens of the text that an evaluation reads.
        """
        return {}

    def further_seconds(self, model: Counts) -> float:
        """Return the seconds that the stage takes beside its operations."""
        return 0.0
