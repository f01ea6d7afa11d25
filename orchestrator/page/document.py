"""The page as one HTML file that opens without a network.

Answers, heat tables and static pictures are HTML of their own, with all text escaped: they are read
without scripts. Everything else reaches the page as JSON, and its scripts put it on screen as text,
so nothing from a row is ever read as markup. A server that shows a running sweep sends what is new.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

from pyarrow.fs import FileSystem

from orchestrator.page.answers import tolerance_choices
from orchestrator.page.contents import page_contents
from orchestrator.results.schema import Row
from orchestrator.store.files import replace_file

PLOTLY = "plotly-basic.min.js"
"""The basic bundle of plotly.js, which draws `scatter`; from npm, with its licence beside it."""
ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("state.js", "rows_data.js", "lines.js", "axes.js", "perplexity.js", "costs.js")
SCRIPTS += (
    "layers.js",
    "losses.js",
    "views.js",
    "plot.js",
    "choosers.js",
    "boards.js",
    "drawer.js",
)
SCRIPTS += ("table.js", "save.js", "live.js", "clicks.js", "page.js")
"""Scripts in the order in which they are joined; the names of each are known to all."""
BEFORE = "early.js"
"""A script that runs before anything is drawn."""


def page_html(
    contents: Mapping[str, Any], live: str | None = None, plotly_js: str | None = None
) -> str:
    """Return the whole page as HTML.

    Args:
        contents: From `page_contents`. A live page adds `progress`, with `note` (a line on how the
            sweep is doing) and `cells` (name, state and error of each cell that is not done).
        live: Address at which the page asks its own server for news; without it the page forbids
            itself any network.
        plotly_js: Source of plotly.js; the one that is shipped by default.
    """
    scripts = {
        "early": asset(BEFORE),
        "plotly": asset(PLOTLY) if plotly_js is None else plotly_js,
        "script": "\n".join(map(asset, SCRIPTS)),
    }
    head = contents["head"]
    boards = contents["boards"]
    kept = [{name: part for name, part in board.items() if name != "html"} for board in boards]
    return Template(asset("page.html")).substitute(
        scripts,
        style=asset("page.css"),
        connect="connect-src 'self'; " if live else "",
        allowed=" ".join(map(hash_of, scripts.values())),
        live=html.escape(live or ""),
        title=html.escape(head["title"]),
        facts=html.escape(head["facts"]),
        tolerances=tolerance_choices(),
        boards="".join(board["html"] for board in boards) or "<p>No rows yet.</p>",
        settings=settings_html(contents["settings"]),
        data=_embedded({**contents, "boards": kept}),
    )


def settings_html(settings: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Return the settings panel, for readers without scripts too."""
    parts = []
    for name, values in settings:
        parts.append(f"<dt>{html.escape(name)}</dt>")
        parts += [f"<dd>{html.escape(value)}</dd>" for value in values]
    return "".join(parts)


@functools.cache
def asset(name: str) -> str:
    """Return the text of a file of assets."""
    return (ASSETS / name).read_text(encoding="utf-8")


def hash_of(script: str) -> str:
    """Return the source expression by which a Content-Security-Policy lets one script run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def write_html(
    rows: Iterable[Row],
    path: str | os.PathLike[str],
    *,
    filesystem: FileSystem | None = None,
    **more: Any,
) -> None:
    """Write the page of these rows whole, to a local path or a pyarrow filesystem.

    Args:
        rows: Rows in any order.
        path: Path of the file, replaced if it is there.
        filesystem: Where the path is; this machine by default.
        more: Further arguments of `page_contents`.
    """
    replace_file(page_html(page_contents(rows, **more)).encode(), path, filesystem)


def _embedded(data: object) -> str:
    """Return JSON in which no text can end the script element or open a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
