"""Means, perplexities and times as text."""

import math

import pytest

from orchestrator.results.numbers import clock, format_perplexity, mean_and_std


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (27.656, None, "27.66"),
        (193.04, None, "193.0"),
        (1354.2, None, "1354"),
        (9999.6, None, "1.0e+04"),
        (12345.0, 678.0, "1.2e+04±7e+02"),
        (41.23, 0.31, "41.2±0.3"),
        (17.774, 0.09, "17.77±0.09"),
        (52.02, 2.2, "52.0±2.2"),
        (math.inf, None, "inf"),
        (math.nan, None, "nan"),
    ],
)
def test_perplexities_are_written_compactly(mean, std, text):
    assert format_perplexity(mean, std) == text


def test_mean_and_std_are_the_sample_s_and_leave_out_what_is_not_finite():
    assert mean_and_std([1.0, 2.0, 3.0, math.nan, math.inf]) == (2.0, 1.0)
    assert mean_and_std([5.0]) == (5.0, None)
    assert mean_and_std([math.nan]) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (200, "3m20s"), (7500, "2h05m")],
)
def test_times_are_written_with_two_units_at_most(seconds, text):
    assert clock(seconds) == text
