"""Quantiles of Student's t, which says how far a mean over a few seeds may lie from the truth."""

from __future__ import annotations

import functools
import math

LEVEL = 0.975
"""The quantile in use: intervals between two of them hold 95 %."""


@functools.cache
def t_quantile(freedom: float, level: float = LEVEL) -> float:
    """Return the value below which Student's t lies with probability `level`, above one half.

    Args:
        freedom: Degrees of freedom, 1 or more; Welch's test has fractions.
        level: The probability, in (0.5, 1).
    """
    low, high = 0.0, 1.0
    while t_below(high, freedom) < level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def t_below(value: float, freedom: float) -> float:
    """Return the probability that Student's t lies below a value of 0 or more."""
    return 1 - beta_below(freedom / (freedom + value**2), freedom / 2, 0.5) / 2


def beta_below(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function, by Lentz's continued fraction.

    Press et al., Numerical Recipes, section 6.4.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_below(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(front + a * math.log(x) + b * math.log1p(-x)) / a
    fraction, c, d = 1.0, 1.0, 0.0
    for i in range(300):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + term * d)
        c = 1 + term / c
        fraction *= c * d
        if abs(c * d - 1) < 1e-13:
            break
    return front * (fraction - 1)
