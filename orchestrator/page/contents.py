"""The words and the HTML around the figure: stories of rows, published values, the whole page.

The page is one file that opens without a network. Whatever comes from rows reaches it as JSON whose
`<` are escaped, and its scripts put it on screen as text. A server that shows a running sweep sends
the same JSON again.
"""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any

from plotly.offline import get_plotlyjs
from pyarrow.fs import FileSystem

from orchestrator.page import contents as page
from orchestrator.page.figure import figure
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.published import Published, known_values
from orchestrator.results.schema import SCHEMA, Row, key_of, sort_key, task_columns_of
from orchestrator.store.files import replace_file

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("plot.js", "stages.js", "table.js", "answer.js", "live.js", "page.js")
SETTINGS = {
    "protocol": ("protocol",),
    "evaluation: text, window, stride, tokens": (
        "eval_text",
        "eval_seq_len",
        "eval_stride",
        "num_eval_tokens",
    ),
    "calibration: text, tokens, window": (
        "calibration_text",
        "calibration_tokens",
        "calibration_seq_len",
    ),
    "method settings": ("method", "method_settings"),
    "schedule, budget": ("schedule", "budget"),
    "training": ("finetune_settings", "finetune_lr"),
    "seeds": ("seed",),
    "device, workers, number format": ("device", "num_workers", "dtype"),
    "machine": ("machine",),
    "code: version and commit": ("code_version",),
    "torch": ("torch_version",),
    "transformers": ("transformers_version",),
    "ray": ("ray_version",),
    "sweep": ("sweep_id",),
}
"""What the settings panel shows of the rows: a title and the columns behind it."""


def contents(
    rows: Iterable[Row],
    drawing: Mapping[str, Any],
    details: Mapping[str, Any] = MappingProxyType({}),
    provenance: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, Any]:
    """What the page shows, as plain JSON values; its `show` takes it as often as there is news.

    Args:
        rows: All rows, in any order.
        drawing: The figure as plain JSON values (`data` and `layout`).
        details: Layers and losses, from `details.details_of`.
        provenance: More for the settings panel.
    """
    rows = sorted(rows, key=sort_key)
    columns = [*SCHEMA.names, *task_columns_of(rows)]
    return {
        "drawing": drawing,
        "columns": columns,
        "rows": [_plain(row, columns) for row in rows],
        "details": dict(details),
        "settings": _settings(rows, provenance),
    }


def render(shown: Mapping[str, Any], plotly_js: str, live: str | None = None) -> str:
    """The whole page as HTML.

    Args:
        shown: From `contents`. With `progress` among it, `{"note": text, "cells": [[cell, state,
            text], ...]}`, the page says how a running sweep is doing.
        plotly_js: Source of plotly.js.
        live: Where the page asks its own server for new contents, as JSON; without it the page
            forbids itself any network.
    """
    return Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        style=(ASSETS / "page.css").read_text(encoding="utf-8"),
        connect="connect-src 'self'; " if live else "",
        live=html.escape(live or ""),
        plotly=plotly_js,
        data=embedded(shown),
        script="\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS),
    )


def _plain(row: Row, columns: Sequence[str]) -> list[Any]:
    """A row as a list, its key first; JSON has no NaN, so what is not finite becomes text."""
    values = [row.get(name) for name in columns]
    return [
        key_of(row),
        *(str(v) if isinstance(v, float) and not math.isfinite(v) else v for v in values),
    ]


def embedded(data: object) -> str:
    """JSON that nothing inside can end the script element of, nor open a comment in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _settings(rows: Sequence[Row], provenance: Mapping[str, object]) -> list[tuple[str, list[str]]]:
    """The panel that says how the numbers were made: each setting with all values it takes."""
    items = [(name, [str(value)]) for name, value in provenance.items()]
    finished = sorted(row["finished_at"][:16] for row in rows if row.get("finished_at"))
    span = " to ".join(dict.fromkeys((finished[0], finished[-1]))) if finished else ""
    items.append(("computed", [f"{span} UTC"] if span else []))
    for title, columns in SETTINGS.items():
        values = {tuple(row.get(column) for column in columns) for row in rows}
        told = {" · ".join(str(v) for v in value if v is not None) for value in values}
        items.append((title, sorted(told - {""})))
    return items


def page_contents(
    rows: Iterable[Row],
    *,
    details: Mapping[str, Any] | None = None,
    published: Iterable[Published] | None = None,
    provenance: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """All that the page shows, as plain JSON values: what a live page asks for again and again.

    Args:
        rows: Of `results.SCHEMA`, as many as there are yet.
        details: Layers and losses, from `details.details_of`.
        published: Values to compare with; those shipped with the project by default.
        provenance: More for the settings panel, e.g. `{"command": ..., "commit": ...}`.
    """
    rows = list(rows)
    known = known_values(None) if published is None else list(published)
    drawing = json.loads(figure(curves_from_rows(rows), known).to_json() or "{}")
    shown = page.contents(rows, drawing, details or {}, provenance or {})
    return {**shown, "spreads": [value.spread() for value in known if value.std is not None]}


def page_html(contents: Mapping[str, Any], live: str | None = None) -> str:
    """The page around `page_contents`; `live` is where it asks its own server for news."""
    return page.render(contents, get_plotlyjs(), live)


def write_html(
    rows: Iterable[Row],
    path: str | os.PathLike[str],
    *,
    details: Mapping[str, Any] | None = None,
    published: Iterable[Published] | None = None,
    provenance: Mapping[str, object] | None = None,
    filesystem: FileSystem | None = None,
) -> None:
    """Writes the page around `page_contents` whole: one file, local or on a pyarrow filesystem."""
    shown = page_contents(rows, details=details, published=published, provenance=provenance)
    replace_file(page_html(shown).encode(), path, filesystem)
