"""The rows of the study of ELSA: their file, their tables, their figure."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from line_figure import Panel, figure

from orchestrator.results.numbers import format_perplexity, mean_and_std
from orchestrator.store.files import replace_file

COLUMNS = ("tokens", "text", "seed", "sparsity", "method", "regime", "training", "perplexity")
BEFORE = {
    "adaptive": ", adaptive 1",
    "adaptive 2": ", 128 steps",
    "adaptive 2, 512 steps": ", adaptive 2",
}
"""Ends of the names of lines, by the training of their rows; the present training has none."""

Cell = tuple[str, ...]
"""The columns of a row without its perplexity."""
Rows = dict[Cell, float]
"""The perplexity of each cell that is done."""
Lines = dict[tuple[int, str], dict[float, list[float]]]
"""Perplexities by tokens and name of a line, then by sparsity."""


def known_rows(file: Path) -> Rows:
    """Return the perplexity of each cell that the file has."""
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        _, *rows = csv.reader(lines)
    return {tuple(cell): float(perplexity) for *cell, perplexity in rows}


def add_rows(file: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Add rows to the file; they take the place of those of the same cells."""
    new = {tuple(cell): perplexity for *cell, perplexity in rows}
    if not new:
        return
    found = {cell: f"{value:.4f}" for cell, value in known_rows(file).items()} | new
    order = sorted(
        found,
        key=lambda cell: (int(cell[0]), cell[1], *cell[4:6], float(cell[3]), cell[2], cell[6]),
    )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [COLUMNS, *((*cell, found[cell]) for cell in order)]
    )
    replace_file(text.getvalue().encode(), file)


def table(found: Lines) -> str:
    """Return a Markdown table: perplexity by tokens and line, at each sparsity."""
    columns = sorted({sparsity for line in found.values() for sparsity in line})
    lines = ["| tokens | | " + " | ".join(f"{s:g}" for s in columns) + " |"]
    lines.append("|---:|---|" + "---:|" * len(columns))
    for (tokens, name), line in found.items():
        values = [format_perplexity(*mean_and_std(line[s])) if s in line else "" for s in columns]
        lines.append(f"| {tokens:,} | {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def drawn(found: Lines) -> str:
    """Return a figure: a panel for each number of tokens, a line for each method and regime.

    Lines of the training before are drawn until those of the present one are complete.
    """
    panels: dict[int, dict[str, dict[float, float]]] = defaultdict(dict)
    for (tokens, name), line in found.items():
        present = found.get((tokens, name.partition(",")[0]), {})
        if line is not present and present.keys() >= line.keys():
            continue
        panels[tokens][name] = {x: mean_and_std(v)[0] for x, v in sorted(line.items())}
    told = "{:,} training tokens: perplexity by sparsity"
    return figure(
        [
            Panel(told.format(tokens), lines, y_scale=math.log, label_width=200)
            for tokens, lines in panels.items()
        ]
    )
