"""Tokens of the calibration windows that stand for all of them, where all would cost too much."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLED = 8
"""Tokens for each input of `down_proj` whose mean stands for that of all tokens."""


@dataclass(frozen=True)
class Windows:
    """Calibration windows of all ranks."""

    count: int
    seq_len: int

    def spacing(self, wanted: int) -> int:
        """Return the step between places of a window if about `wanted` tokens are to be taken."""
        return max(1, min(self.seq_len, self.count * self.seq_len // wanted))

    def num_tokens(self, spacing: int) -> int:
        """Return the number of tokens at these places of all windows."""
        return self.count * len(range(0, self.seq_len, spacing))

    def places(self, tokens: int, spacing: int, device: torch.device) -> Tensor:
        """Return the indices of these places among the tokens of some whole windows."""
        index = torch.arange(tokens, device=device)
        return index[index % self.seq_len % spacing == 0]
