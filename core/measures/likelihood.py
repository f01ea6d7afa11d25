"""Perplexities from mean negative log-likelihoods, without a model; result rows use them."""

from __future__ import annotations

import math


def exponential(nll: float) -> float:
    """Return exp(nll): infinity if a float64 overflows, NaN for NaN."""
    return math.exp(nll) if nll < 709 else nll if math.isnan(nll) else math.inf


def perplexity_per(units: int | None, nll: float | None, num_tokens: int | None) -> float | None:
    """Return the perplexity per word or byte from the mean nll per token; None if unknown."""
    if not units or nll is None or num_tokens is None:
        return None
    return exponential(nll * num_tokens / units)
