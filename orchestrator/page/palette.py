"""Colours, dashes and markers: a method and a regime look the same in every figure and page."""

from __future__ import annotations

import zlib

GREY = "#6b6b6b"
"""Colour of the dense model; dark enough to differ from green where red and green look alike."""
# Okabe & Ito's palette keeps the common colour-blindnesses apart. The colours of methods have a
# contrast of 3 with the light and the dark background; the palette's black would not on the dark.
COLORS = {"magnitude": "#D55E00", "wanda": "#0072B2", "sparsegpt": "#009E73", "alps": "#CC79A7"}
OTHER_COLORS = ("#E69F00", "#56B4E9")
DASHES = {"oneshot": "dot", "finetune": "dash", "iterative": "solid"}
SYMBOLS = {"oneshot": "circle", "finetune": "square", "iterative": "diamond"}
TROUBLE_SYMBOLS = {"failed": "x-thin", "non-finite": "triangle-up"}
TROUBLE_SYMBOLS |= {"stopped": "square", "not_run": "line-ew"}


def color_of(method: str) -> str:
    """Return the colour of a method, the same in every figure."""
    if method == "dense":
        return GREY
    spare = OTHER_COLORS[zlib.crc32(method.encode()) % len(OTHER_COLORS)]
    return COLORS.get(method, spare)
