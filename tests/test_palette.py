"""Colours that people with the common colour-blindnesses tell apart, on light paper and on dark."""

import itertools
import re

import numpy as np
import pytest

from orchestrator.page.document import ASSETS
from orchestrator.page.palette import COLORS, DASHES, GREY, SERIES, SYMBOLS

# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
SIGHT = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def linear(color: str) -> np.ndarray:
    values = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB under D65."""
    x, y, z = XYZ @ rgb.clip(0, 1) / [0.9505, 1.0, 1.089]
    f = [t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", list(SIGHT))
def test_every_two_colours_look_different(sight):
    seen = {name: lab(SIGHT[sight] @ linear(c)) for name, c in (COLORS | {"dense": GREY}).items()}
    for one, other in itertools.combinations(seen, 2):
        # A difference of 2 is noticed side by side, one of 10 at a glance.
        assert np.linalg.norm(seen[one] - seen[other]) > 10, (one, other)


@pytest.mark.parametrize("sight", ["full", "protanopia", "deuteranopia"])
def test_all_colours_in_use_look_different_where_red_and_green_do_not(sight):
    seen = {color: lab(SIGHT[sight] @ linear(color)) for color in (*SERIES, GREY)}
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 10, (one, other)


def papers() -> list[str]:
    return re.findall(r"--paper: (#\w{6})", (ASSETS / "page.css").read_text(encoding="utf-8"))


@pytest.mark.parametrize("color", [*SERIES, GREY])
def test_every_colour_stands_out_from_both_papers(color):
    assert len({*papers()}) == 2
    for paper in papers():
        light, dark = sorted((lab_y(color), lab_y(paper)), reverse=True)
        # WCAG 2's contrast for graphics.
        assert (light + 0.05) / (dark + 0.05) >= 3, paper


def lab_y(color: str) -> float:
    return float((XYZ @ linear(color))[1])


def test_regimes_differ_without_any_colour():
    assert len(set(DASHES.values())) == len(set(SYMBOLS.values())) == len(DASHES) == 4
