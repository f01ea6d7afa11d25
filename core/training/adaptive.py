"""The recipe of a round by the damage: which objective, and how large a learning rate.

No single recipe is best at every sparsity. Where little is lost, block-wise reconstruction brings
back the most; where much is lost, only the predictions of the whole model say what to mend, and
larger steps are needed. The gap to the dense model (`measures/gap.py`) tells the two apart. The
constants were chosen on validation text (experiments/studies/recovery.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from core.training_config import GAP_TOKENS, Training

NO_GAP = 1e-5
"""Gap in nats a token below which there is nothing to learn from the dense model."""
SMALL_GAP = 1.0
"""Gap in nats a token up to which blocks are reconstructed."""
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


def gap_windows(windows: Tensor, num_ranks: int) -> Tensor:
    """Return the windows of a round [num_windows, seq_len] that its gap is measured on."""
    return windows[: max(num_ranks, GAP_TOKENS // windows.shape[1])]


def adapted(config: Training, gap: float, hidden_size: int) -> Training:
    """Return the settings of a round that starts with this gap; a rate that was given stays.

    Args:
        config: settings with the adaptive objective.
        gap: nats a token, as `mean_gap` returns it.
        hidden_size: width of the model.
    """
    is_small = gap <= SMALL_GAP  # False for NaN.
    rate = (RECONSTRUCT if is_small else DISTILL).at(gap, hidden_size)
    config = replace(config, lr=config.lr or rate)
    if is_small:
        return replace(config, objective="reconstruct")
    softened = {"distill_mix": 1.0, "distill_temperature": 1.0}
    return replace(config, objective="next_token", distill=True, **softened)
