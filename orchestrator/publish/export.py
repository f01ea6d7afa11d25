"""Figures and tables of a sweep as files for a paper.

Place in the flow: rows -> boards -> **figures (SVG, PDF, PNG, Plotly) and tables (CSV, Markdown,
LaTeX)**.
The figures are the static pictures of the page. A Chromium of this machine makes PDF and PNG of
them, without a network. For notebooks there is each as a Plotly figure too.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from core.checks import BadInputError
from orchestrator.page.notebook import figure_of
from orchestrator.page.picture import lone_picture
from orchestrator.page.scale import CAP, ratios_of
from orchestrator.publish.found_tables import found_files
from orchestrator.publish.tables import tables_from_rows
from orchestrator.publish.typesetting import cells_csv, latex, markdown, rows_csv
from orchestrator.results.board import Board
from orchestrator.results.curves import Evaluation
from orchestrator.results.published import Published, published_beside
from orchestrator.results.schema import Row

logger = logging.getLogger(__name__)

DEFAULT_FIGURES = ("svg", "pdf", "png")
DRAWN_HERE = "svg"
"""The format that needs no browser."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-sync", "disable-quic")
FLAGS += ("disable-background-networking", "disable-component-update", "disable-dev-shm-usage")
PNG_SCALE = 3
"""Pixels of a PNG for each unit of the picture."""
SECONDS = 120
"""Longest time that a browser may take for one figure."""


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
        figures: formats. If no browser is found, a warning says so and only SVG is drawn.
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
    texts |= found_files([table.board for table in tables])
    texts |= pictures_of([table.board for table in tables], published)
    wanted = {name: text for name, text in texts.items() if not name.endswith(f".{DRAWN_HERE}")}
    wanted |= texts if DRAWN_HERE in figures else {}
    for name, text in wanted.items():
        (directory / name).write_text(text, encoding="utf-8")
    pictures = {name: text for name, text in texts.items() if name.endswith(f".{DRAWN_HERE}")}
    formats = [figure for figure in figures if figure != DRAWN_HERE]
    return [directory / name for name in wanted] + converted(pictures, directory, formats)


def pictures_of(boards: Sequence[Board], published: Sequence[Published]) -> dict[str, str]:
    """Return by file name each board as a figure for notebooks and as SVG.

    The focused picture of each has a second one with all values if some leave it. A board whose
    dense model has no perplexity has no picture.
    """
    names = names_of([(board.model, board.evaluation) for board in boards])
    found = {}
    for board in boards:
        name = names[board.model, board.evaluation]
        values = published_beside(board, published)
        found[f"{name}.plotly.json"] = str(figure_of(board).to_json())
        found[f"{name}.{DRAWN_HERE}"] = lone_picture(board, values, full=False)
        if max(ratios_of(board), default=0.0) > CAP:
            found[f"{name}-full.{DRAWN_HERE}"] = lone_picture(board, values, full=True)
    return {name: text for name, text in found.items() if text}


def require_figures(figures: Sequence[str]) -> None:
    """Refuse figures that the user asked for and this machine cannot draw."""
    if browser() is None and {*figures} - {DRAWN_HERE}:
        raise BadInputError(f"--figures {' '.join(figures)}: {NO_BROWSER}")


NO_BROWSER = "no Chromium or Chrome; install one (Debian: chromium) or set BROWSER_PATH"


def browser() -> str | None:
    """Return the browser that draws, or None."""
    named = os.environ.get("BROWSER_PATH")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)


def converted(pictures: dict[str, str], directory: Path, formats: Sequence[str]) -> list[Path]:
    """Write pictures in formats that a browser makes; a warning says if it cannot."""
    program, written = browser(), []
    if not formats or not pictures:
        return []
    told = " and ".join(each.upper() for each in formats)
    if program is None:
        logger.warning("no %s: %s", told, NO_BROWSER)
        return []
    with tempfile.TemporaryDirectory() as scratch:
        for name, svg in pictures.items():
            for kind in formats:
                path = (directory / name).with_name(f"{name.removesuffix(f'.{DRAWN_HERE}')}.{kind}")
                reason = convert(program, svg, path, Path(scratch))
                if reason is not None:
                    logger.warning("no %s: %s could not draw them (%s)", told, program, reason)
                    return written
                written.append(path)
    return written


def convert(program: str, svg: str, path: Path, scratch: Path) -> str | None:
    """Let a browser write one picture as PDF or PNG, by the path's suffix; return why not."""
    width, height = re.findall(r' (?:width|height)="(\d+)"', svg)[:2]
    page, drawn = scratch / "figure.html", scratch / f"figure{path.suffix}"
    style = f"@page{{size:{width}px {height}px;margin:0}}body{{margin:0}}svg{{display:block}}"
    page.write_text(f"<!DOCTYPE html><meta charset=utf-8><style>{style}</style>{svg}", "utf-8")
    drawn.unlink(missing_ok=True)
    flags = [f"--{flag}" for flag in (*FLAGS, f"user-data-dir={scratch / 'profile'}")]
    if path.suffix == ".pdf":
        flags += [f"--print-to-pdf={drawn}", "--no-pdf-header-footer"]
    else:
        flags += [f"--screenshot={drawn}", f"--window-size={width},{height}"]
        flags += [f"--force-device-scale-factor={PNG_SCALE}", "--hide-scrollbars"]
    command = [program, *flags, page.as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error).splitlines()[0]
    if not drawn.exists():
        return f"exit code {done.returncode}"
    path.write_bytes(drawn.read_bytes())
    return None


def names_of(facets: Iterable[tuple[str, Evaluation]]) -> dict[tuple[str, Evaluation], str]:
    """Return a file name for each facet, made of model and text; equal names get numbers."""
    names: dict[tuple[str, Evaluation], str] = {}
    for model, evaluation in facets:
        base = re.sub(r"[^A-Za-z0-9.]+", "-", f"{model}-{evaluation.text}").strip("-.")[-80:]
        taken = sum(name == base or name.startswith(f"{base}-") for name in names.values())
        names[model, evaluation] = f"{base}-{taken + 1}" if taken else base or "figure"
    return names
