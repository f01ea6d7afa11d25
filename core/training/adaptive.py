"""The recipe of a round by the damage: which objective, and how large a learning rate.

No single recipe is best at every sparsity. Where little is lost, block-wise reconstruction brings
back the most; where much is lost, only the predictions of the whole model say what to mend, and
larger steps are needed. The gap to the dense model (`measures/gap.py`) tells the two apart. Many
tokens teach predictions more than they teach blocks. A model that has learned predictions has
blocks whose outputs differ from the dense ones on purpose: to reconstruct them would undo that. The
constants were chosen on validation text (experiments/studies/recovery.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from core.training_config import GAP_TOKENS, SHORT_ROUND, Training

NO_GAP = 1e-5
"""Gap in nats a token below which there is nothing to learn from the dense model."""
SMALL_GAP = 1.0
"""Gap in nats a token up to which blocks are reconstructed in a short round."""
SMALL_GAP_TOKENS = 1.5 * SHORT_ROUND
"""Gap times tokens of the round up to which they are in a longer one. Both objectives do equally
well at a gap of 0.4 to 1.7 nats with 65,536 tokens, 0.1 to 0.7 with 131,072, 0.12 to 0.35 with
262,144, and below 0.05 with 1,048,576."""
WIDTH = 160
"""Hidden size of the model that the rates are for. Those of wider models are lower by the ratio of
the widths (arXiv 2203.03466)."""


@dataclass(frozen=True)
class Rate:
    """A peak learning rate that grows with the gap up to a limit."""

    at_one: float
    """The rate for a gap of 1 nat."""
    power: float
    highest: float

    def at(self, gap: float, hidden_size: int) -> float:
        """Return the rate for a gap in nats a token; a gap of NaN or infinity gets the highest."""
        wanted = self.at_one * gap**self.power
        # The comparison is false for NaN.
        rate = wanted if wanted < self.highest else self.highest
        return rate * min(1.0, WIDTH / hidden_size)


RECONSTRUCT = Rate(at_one=4e-3, power=0.5, highest=8e-3)
DISTILL = Rate(at_one=1.3e-3, power=0.7, highest=4e-3)


def gap_windows(windows: Tensor) -> Tensor:
    """Return the windows of a round [num_windows, seq_len] that its gap is measured on."""
    return windows[: max(1, GAP_TOKENS // windows.shape[1])]


@dataclass(frozen=True)
class Start:
    """The start of a round, as far as its recipe depends on it."""

    gap: float
    """Nats a token, as `mean_gap` returns it."""
    hidden_size: int
    """Width of the model."""
    num_tokens: int
    """Tokens of the round."""
    was_distilled: bool = False
    """True if an earlier round of the branch has learned the dense model's predictions."""

    @property
    def reconstructs(self) -> bool:
        """True if blocks are to be reconstructed; False for a gap that is NaN."""
        limit = min(SMALL_GAP, SMALL_GAP_TOKENS / self.num_tokens)
        return self.gap <= limit and not self.was_distilled


def adapted(config: Training, start: Start) -> Training:
    """Return the settings of a round; a rate that was given stays.

    Args:
        config: settings with the adaptive objective.
        start: what the round starts from.
    """
    rate = (RECONSTRUCT if start.reconstructs else DISTILL).at(start.gap, start.hidden_size)
    config = replace(config, lr=config.lr or rate)
    if start.reconstructs:
        return replace(config, objective="reconstruct")
    softened = {"distill_mix": 1.0, "distill_temperature": 1.0}
    return replace(config, objective="next_token", distill=True, **softened)


def either(config: Training) -> list[Training]:
    """Return the settings of both objectives, of which a round takes one."""
    starts = (Start(gap, hidden_size=1, num_tokens=1) for gap in (NO_GAP, math.inf))
    return [adapted(config, start) for start in starts]
