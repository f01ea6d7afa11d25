"""Colours, dashes and markers: a method and a regime look the same in every figure and page."""

from __future__ import annotations

import zlib

from core.methods import METHODS

GREY = "#6b6b6b"
"""Colour of the dense model; dark enough to differ from green where red and green look alike."""
SERIES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#693CFF", "#B43C2D", "#4BA55A", "#D200B4")
SERIES += ("#7878FF", "#875A87")
"""Colours in the order of their use. Okabe & Ito's come first; a search found the others, of which
each is far from all before it, also for people who do not tell red from green. All have a contrast
of 3 with the light and the dark background."""
COLORS = dict(zip(METHODS, SERIES))
OTHER_COLORS = SERIES[len(COLORS) :]
DASHES = {"oneshot": "dot", "finetune": "dash", "iterative": "solid", "joint": "longdash"}
SYMBOLS = {"oneshot": "circle", "finetune": "square", "iterative": "diamond", "joint": "cross"}
MORE_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MORE_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")


def color_of(method: str) -> str:
    """Return the colour of a method, the same in every figure."""
    if method == "dense":
        return GREY
    spare = OTHER_COLORS[zlib.crc32(method.encode()) % len(OTHER_COLORS)]
    return COLORS.get(method, spare)


def look_of(dimension: str, value: str, place: int) -> dict[str, str]:
    """Return colour, dash and symbol of one value of a dimension.

    Args:
        dimension: Its name; methods and regimes have looks of their own.
        value: The value.
        place: Its place among the values of the dimension, from 0.
    """
    return {
        "color": color_of(value) if dimension == "method" else SERIES[place % len(SERIES)],
        "dash": DASHES.get(value, MORE_DASHES[place % len(MORE_DASHES)]),
        "symbol": SYMBOLS.get(value, MORE_SYMBOLS[place % len(MORE_SYMBOLS)]),
    }
