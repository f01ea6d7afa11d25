"""Settings of calibration: the text windows, and the tokens on which experts are observed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from core.checks import require, require_positive
from core.typed_values import give_types_

Sampling = Literal["documents", "stream"]


@dataclass(frozen=True)
class ExpertTokens:
    """The tokens on which the experts of a mixture are observed."""

    all_experts: bool = False
    """True if all tokens count for each expert."""
    pseudo_tokens: float = 1.0
    """Pseudo-tokens for each input of a matrix; they have the mean of all tokens."""

    def options(self) -> dict[str, Any]:
        """Return what differs from the default, to tell curves apart."""
        if self.all_experts:
            return {"all_experts": True}
        return {} if self == ExpertTokens() else {"pseudo_tokens": self.pseudo_tokens}


@dataclass(frozen=True)
class CalibrationConfig:
    """Calibration: the text windows on which pruning observes the inputs of layers."""

    text: str | None = None
    """Text: c4, wikitext2 or ptb from the Hugging Face hub, NAME=FILE for a copy of one of these, a
    local file, or embedded[:PART]. By default embedded for the embedded model, else c4. A file
    holds prose, JSON, CSV or Parquet; FILE#COLUMN names the column to read instead of `text`."""
    num_samples: int = 128
    """Number of windows."""
    seq_len: int | None = None
    """Tokens in a window. By default the model's maximum, at most 2048."""
    sampling: Sampling | None = None
    """`documents`: a random window of each random document that is long enough; `stream`: random
    windows of the joined text. By default documents for c4, else stream, as in the papers' code."""
    all_experts: bool = False
    """Observe every expert of a mixture on all tokens, not only on those that the router sends to
    it. The forward pass stays as it is."""
    pseudo_tokens: float | None = None
    """Weight of the mean of all tokens in what is observed of an expert, in tokens for each input
    of a matrix. 0 counts the routed tokens alone. By default 1."""

    def __post_init__(self) -> None:
        give_types_(self, "calibration.")
        require_positive("calibration.num-samples", self.num_samples, "use 1 or more")
        require_window("calibration.seq-len", self.seq_len)
        pseudo = self.pseudo_tokens
        fits = pseudo is None or 0 <= pseudo < math.inf
        require(fits, "calibration.pseudo-tokens", pseudo, "use 0 or more, for example 1")
        remedy = "means nothing with --calibration.all-experts; leave it out"
        require(pseudo is None or not self.all_experts, "calibration.pseudo-tokens", pseudo, remedy)

    def experts(self) -> ExpertTokens:
        """Return the tokens on which experts are observed."""
        pseudo = 1.0 if self.pseudo_tokens is None else self.pseudo_tokens
        return ExpertTokens(self.all_experts, 0.0 if self.all_experts else pseudo)


def require_window(flag: str, seq_len: int | None) -> None:
    """Refuse a window in which no token has a token before it."""
    require(seq_len is None or seq_len > 1, flag, seq_len, "use 2 tokens or more")
