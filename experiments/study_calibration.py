"""Calibration windows and damping: the perplexity that SparseGPT and ALPS reach with each.

    python experiments/study_calibration.py                  # run what is missing, then the table
    python experiments/study_calibration.py --seeds 0 --sparsities 0.7

SparseGPT and ALPS on the embedded model, over 8 to 128 windows and three shares of damping. The
same command goes on where it stopped. It prints the table of perplexities over seeds and draws them
in OUT_DIR/calibration.svg.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from orchestrator.cli import main
from orchestrator.config import GridConfig, OutputConfig, SweepConfig
from orchestrator.page.palette import SERIES
from orchestrator.publish.verdict import rows_of
from orchestrator.results.numbers import format_perplexity, mean_and_std

AXES = {
    "--calibration.num-samples": "8 16 32 64 128",
    "--prune.dampening-frac": "0.001 0.01 0.1",
}
WINDOWS, DAMPING = "axis:calibration.num_samples", "axis:prune.dampening_frac"
PRESET = SweepConfig(
    grid=GridConfig(
        methods=("sparsegpt", "alps"),
        regimes=("oneshot",),
        sparsities=(0.5, 0.7),
        seeds=(0, 1, 2),
    ),
    output=OutputConfig(out_dir="results/calibration", keep="none"),
)
WIDTH, HEIGHT, EDGE, LINE = 360, 240, 48, 12

Values = dict[tuple[str, float, float], dict[int, list[float]]]
"""Perplexities of all seeds by method, sparsity and damping, then by windows."""


def values_of(rows: Iterable[dict]) -> Values:
    """Return the perplexities of finished cells."""
    found: Values = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["status"] == "done" and row.get(WINDOWS) is not None:
            line = (row["method"], row["sparsity"], float(row[DAMPING]))
            found[line][int(row[WINDOWS])].append(row["perplexity"])
    return found


def table(values: Values) -> str:
    """Return the means over seeds as Markdown, a line for each method, sparsity and damping."""
    windows = sorted({count for line in values.values() for count in line})
    head = ["method", "sparsity", "damping", *map(str, windows)]
    lines = [head, ["---"] * len(head)]
    for (method, sparsity, damping), found in sorted(values.items()):
        cells = [format_perplexity(*mean_and_std(found.get(n, []))) for n in windows]
        lines.append([method, f"{sparsity:g}", f"{damping:g}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(values: Values) -> str:
    """Return a figure: a panel for each method and sparsity, a line for each damping."""
    panels = sorted({line[:2] for line in values})
    parts = [
        f'<g transform="translate({i * WIDTH} 0)">{panel(values, place)}</g>'
        for i, place in enumerate(panels)
    ]
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}" font-family="sans-serif"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-size="11">'
    return start + '<rect width="100%" height="100%" fill="white"/>' + "".join(parts) + "</svg>"


def panel(values: Values, place: tuple[str, float]) -> str:
    """Return one panel: windows on a logarithmic axis, the mean perplexity on a linear one."""
    lines = {
        key[2]: {n: sum(v) / len(v) for n, v in sorted(found.items())}
        for key, found in sorted(values.items())
        if key[:2] == place
    }
    heights = [value for line in lines.values() for value in line.values()]
    windows = sorted({count for line in lines.values() for count in line})
    low, high = min(heights), max(max(heights), min(heights) * 1.01)
    steps = math.log2(windows[-1] / windows[0]) or 1.0

    def at(count: int, value: float) -> tuple[float, float]:
        x = EDGE + (WIDTH - 2 * EDGE) * math.log2(count / windows[0]) / steps
        return x, EDGE + (HEIGHT - 2 * EDGE) * (high - value) / (high - low)

    parts = [label(EDGE, 24, f"{place[0]} at {place[1]:g}: perplexity by windows and damping")]
    parts += [label(at(n, low)[0], HEIGHT - EDGE + 18, str(n), "middle") for n in windows]
    parts += [label(EDGE - 8, at(windows[0], v)[1], f"{v:.4g}", "end") for v in (low, high)]
    ends = {damping: at(*[*line.items()][-1]) for damping, line in lines.items()}
    places = apart({damping: y for damping, (_, y) in ends.items()})
    for color, (damping, line) in zip(itertools.cycle(SERIES), lines.items()):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in itertools.starmap(at, line.items()))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(label(ends[damping][0] + 4, places[damping], f"{damping:g}", "start", color))
    return "".join(parts)


def apart(heights: dict[float, float]) -> dict[float, float]:
    """Return the heights of labels, moved down where one would lie on another."""
    places: dict[float, float] = {}
    last = -math.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        last = places[name] = max(height, last + LINE)
    return places


def label(x: float, y: float, words: str, anchor: str = "start", color: str = "black") -> str:
    """Return a text of the figure."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{words}</text>'


def show(config: SweepConfig) -> int:
    """Print the table and draw the figure of a finished sweep."""
    values = values_of(rows_of(config))
    print(table(values))
    if values:
        path = Path(config.output.out_dir) / "calibration.svg"
        path.write_text(picture(values), encoding="utf-8")
        print(f"figure  {path}")
    return 0


if __name__ == "__main__":
    for flag, each in AXES.items():
        if flag not in sys.argv:
            sys.argv += [flag, *each.split()]
    sys.exit(main(PRESET, __doc__ or "", show))
