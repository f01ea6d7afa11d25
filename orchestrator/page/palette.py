"""Colours, dashes and markers: a method and a regime look the same in every figure and page."""

from __future__ import annotations

import zlib

GREY = "#6b6b6b"
"""The dense model's: dark enough to differ from green where red and green look alike."""
# Okabe & Ito's palette, which the common colour-blindnesses keep apart. Those given to the methods
# reach a contrast of 3 on both of the page's papers; their black would be lost on the dark one.
COLORS = {"magnitude": "#D55E00", "wanda": "#0072B2", "sparsegpt": "#009E73", "alps": "#CC79A7"}
OTHER_COLORS = ("#E69F00", "#56B4E9")
DASHES = {"oneshot": "dot", "finetune": "dash", "iterative": "solid"}
SYMBOLS = {"oneshot": "circle", "finetune": "square", "iterative": "diamond"}
TROUBLE_SYMBOLS = ("x-thin", "triangle-up", "square", "line-ew")  # as points.TROUBLES


def color_of(method: str) -> str:
    """The colour of a method, the same in every figure."""
    if method == "dense":
        return GREY
    spare = OTHER_COLORS[zlib.crc32(method.encode()) % len(OTHER_COLORS)]
    return COLORS.get(method, spare)
