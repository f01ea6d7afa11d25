"""Figures and tables of a sweep as files for a paper.

Place in the flow: rows -> curves -> **figures (SVG, PDF, PNG) and tables (CSV, Markdown, LaTeX)**.
The figures are those of the page. Kaleido renders them in a Chromium of this machine, without a
network.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.checks import BadInputError
from orchestrator.page.figure import figure
from orchestrator.publish.tables import tables_from_rows
from orchestrator.publish.typesetting import cells_csv, latex, markdown, rows_csv
from orchestrator.results.curves import Curve, Evaluation, curves_from_rows
from orchestrator.results.published import Published
from orchestrator.results.schema import Row

logger = logging.getLogger(__name__)

DEFAULT_FIGURES = ("svg", "pdf", "png")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WIDTH, HEIGHT, PNG_SCALE = 720, 440, 3
"""Points, and pixels a point."""
PAPER = {
    "paper_bgcolor": "white",
    "plot_bgcolor": "white",
    "font": {"color": "black", "size": 13, "family": "Helvetica, Arial, sans-serif"},
    "margin": {"l": 70, "r": 10, "t": 10, "b": 55},
    "legend": {"font": {"size": 11}, "grouptitlefont": {"size": 12}, "tracegroupgap": 2},
    "width": WIDTH,
}
LEGEND_LINE, MARGINS = 20, 100
STRIP = {
    "text": "no perplexity: × failed, ▲ not finite, ■ stopped, – not run",
    **{"xref": "paper", "yref": "paper", "x": 0, "y": 1, "xanchor": "left", "yanchor": "top"},
    **{"showarrow": False, "font": {"size": 10}},
}


def export(
    rows: Iterable[Row],
    directory: Path,
    figures: Sequence[str],
    published: Sequence[Published] = (),
) -> list[Path]:
    """Write the tables and figures of a sweep's current grid; replace files of the same name.

    Args:
        rows: the rows of the store or of `results.parquet`.
        directory: where to write; it is made if it does not exist.
        figures: formats. If Kaleido or a browser is absent, a warning says so and none are drawn.
        published: values of papers to draw beside ours.

    Returns:
        The files written.
    """
    rows = [row for row in rows if row["in_current_grid"]]
    directory.mkdir(parents=True, exist_ok=True)
    tables = tables_from_rows(rows)
    texts = {"rows.csv": rows_csv(rows), "perplexity.csv": cells_csv(tables)}
    texts["tables.md"] = "\n".join(map(markdown, tables))
    texts["tables.tex"] = "\n".join(map(latex, tables))
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    written = [directory / name for name in texts]
    why = missing_for_figures()
    if why is not None:
        logger.warning("no figures: %s", why)
        return written
    return written + write_figures(rows, directory, figures, published)


def missing_for_figures() -> str | None:
    """Return what this machine lacks to draw figures, with the remedy; None if nothing."""
    if importlib.util.find_spec("kaleido") is None:
        return "Kaleido is not installed; pip install -e '.[export]'"
    if browser() is None:
        return "no Chromium or Chrome; install one (Debian: chromium) or set BROWSER_PATH"
    return None


def require_figures(figures: Sequence[str]) -> None:
    """Refuse figures that the user asked for and this machine cannot draw."""
    why = missing_for_figures()
    if why is not None:
        raise BadInputError(f"--figures {' '.join(figures)}: {why}")


def browser() -> str | None:
    """Return the browser that draws, or None."""
    named = os.environ.get("BROWSER_PATH")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


def write_figures(
    rows: Iterable[Row], directory: Path, formats: Sequence[str], published: Sequence[Published]
) -> list[Path]:
    """Write one figure for each model and evaluation, in each format; return the files."""
    import kaleido

    facets: dict[tuple[str, Evaluation], list[Curve]] = defaultdict(list)
    for curve in curves_from_rows(rows):
        facets[curve.facet].append(curve)
    names = names_of(facets)
    jobs: list[dict[str, Any]] = []
    for facet, curves in facets.items():
        drawn = on_paper(figure(curves, published))
        for kind in formats:
            options = {"format": kind, "scale": PNG_SCALE if kind == "png" else 1}
            path = directory / f"{names[facet]}.{kind}"
            jobs.append({"fig": drawn, "path": path, "opts": options})
    # Kaleido would fetch MathJax from the network; plotly.js comes from the package.
    options = {"mathjax": False, "path": browser()}
    try:
        with quiet_logs("kaleido", "choreographer"):
            kaleido.write_fig_from_object_sync(jobs, kopts=options)
    except Exception as error:  # Whatever befalls a browser; the tables are written all the same.
        told = error.args[0] if error.args else error
        while isinstance(told, tuple) and told:
            told = told[0]
        reason = (str(told).strip() or type(error).__name__).splitlines()[0]
        logger.warning("no figures: %s could not draw them (%s)", browser(), reason)
        return []
    return [job["path"] for job in jobs]


@contextlib.contextmanager
def quiet_logs(*names: str) -> Iterator[None]:
    """Silence libraries that would report a failure beside the line that we print."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels):
            each.setLevel(level)


def on_paper(drawn: Any) -> Any:
    """Return the figure in black on white, high enough for its legend, each N:M named once."""
    highest: dict[str, Any] = {}
    for trace in drawn.data:
        known = highest.get(trace.text[0]) if trace.text else None
        if trace.text and (known is None or trace.y[0] > known.y[0]):
            highest[trace.text[0]] = trace
    for trace in drawn.data:
        if trace.text and highest[trace.text[0]] is not trace:
            trace.mode = "markers"
    named = [trace for trace in drawn.data if trace.showlegend is not False]
    lines = len(named) + len({trace.legendgroup for trace in named})
    height = max(HEIGHT, LEGEND_LINE * lines + MARGINS)
    if any(trace.meta["kind"] == "trouble" for trace in drawn.data):
        drawn.add_annotation(STRIP)
    return drawn.update_layout({**PAPER, "height": height})


def names_of(facets: Iterable[tuple[str, Evaluation]]) -> dict[tuple[str, Evaluation], str]:
    """Return a file name for each facet, made of model and text; equal names get numbers."""
    names: dict[tuple[str, Evaluation], str] = {}
    for model, evaluation in facets:
        base = re.sub(r"[^A-Za-z0-9.]+", "-", f"{model}-{evaluation.text}").strip("-.")[-80:]
        taken = sum(name == base or name.startswith(f"{base}-") for name in names.values())
        names[model, evaluation] = f"{base}-{taken + 1}" if taken else base or "figure"
    return names
