"""Colours, dashes and markers: a method and a regime look the same in every figure and page."""

from __future__ import annotations

import zlib

GREY = "#808080"
"""The dense model's."""
# Okabe & Ito's palette, which the common colour-blindnesses keep apart. Those given to the methods
# reach a contrast of 3 on white and on black; black and grey are kept for the dense model.
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
