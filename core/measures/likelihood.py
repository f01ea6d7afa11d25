"""Perplexities from mean negative log-likelihoods, without a model: rows are built of these."""

from __future__ import annotations

import math


def exponential(nll: float) -> float:
    """exp, infinite where a float64 overflows; NaN stays NaN."""
    return math.exp(nll) if nll < 709 else nll if math.isnan(nll) else math.inf


def perplexity_per(units: int | None, nll: float | None, num_tokens: int | None) -> float | None:
    """Perplexity per word or byte from the mean nll per token; None where anything is unknown."""
    if not units or nll is None or num_tokens is None:
        return None
    return exponential(nll * num_tokens / units)
