"""Calibration windows and damping: the perplexity that SparseGPT and ALPS reach with each.

    python experiments/study_calibration.py                  # run what is missing, then the table
    python experiments/study_calibration.py --seeds 0 --sparsities 0.7

SparseGPT and ALPS on the embedded model, over 8 to 128 windows and three shares of damping. The
same command goes on where it stopped. It prints the table of perplexities over seeds and draws them
in OUT_DIR/calibration.svg.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from line_figure import Panel, figure

from orchestrator.cli import main
from orchestrator.config import GridConfig, OutputConfig, SweepConfig
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
    panels: dict[tuple[str, float], dict[str, dict[float, float]]] = defaultdict(dict)
    for (method, sparsity, damping), found in sorted(values.items()):
        line = {float(n): mean_and_std(v)[0] for n, v in sorted(found.items())}
        panels[method, sparsity][f"{damping:g}"] = line
    told = "{} at {:g}: perplexity by windows and damping"
    return figure([Panel(told.format(*k), v, math.log2) for k, v in panels.items()])


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
