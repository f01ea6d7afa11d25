"""Everything that the page shows, as plain JSON values; `document.py` puts it into HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.config import REGIMES
from orchestrator.page.figure import figure
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.published import Published, known_values
from orchestrator.results.schema import (
    CALIBRATION_COLUMNS,
    SCHEMA,
    Row,
    key_of,
    sort_key,
    task_columns_of,
)

SETTINGS = {
    "protocol": ("protocol",),
    "evaluation: text, window, stride, tokens": (
        "eval_text",
        "eval_seq_len",
        "eval_stride",
        "num_eval_tokens",
    ),
    "calibration: text, tokens, window": CALIBRATION_COLUMNS,
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
"""Titles of the settings panel, each with the columns of rows behind it."""


def page_contents(
    rows: Iterable[Row],
    *,
    details: Mapping[str, Any] | None = None,
    published: Iterable[Published] | None = None,
    provenance: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """Return all that the page shows; its `show` takes it as often as there is news.

    Args:
        rows: Rows of `schema.SCHEMA` in any order, of a finished sweep or not.
        details: Layers and losses, from `details.details_of`.
        published: Values to compare with; those shipped with the project by default.
        provenance: More for the settings panel, for example `{"command": ...}`.
    """
    rows = sorted(rows, key=sort_key)
    known = known_values(None) if published is None else list(published)
    columns = [*SCHEMA.names, *task_columns_of(rows)]
    return {
        "drawing": json.loads(figure(curves_from_rows(rows), known).to_json() or "{}"),
        "regimes": REGIMES,
        "columns": columns,
        "rows": [_plain(row, columns) for row in rows],
        "details": dict(details or {}),
        "settings": _settings(rows, provenance or {}),
        "spreads": [value.spread() for value in known if value.std is not None],
    }


def _plain(row: Row, columns: Sequence[str]) -> list[Any]:
    """Return a row as a list, its key first; JSON has no NaN, so it becomes text like infinity."""
    values = [row.get(name) for name in columns]
    return [
        key_of(row),
        *(str(v) if isinstance(v, float) and not math.isfinite(v) else v for v in values),
    ]


def _settings(rows: Sequence[Row], provenance: Mapping[str, object]) -> list[tuple[str, list[str]]]:
    """Return the settings panel: each setting with all values it takes."""
    items = [(name, [str(value)]) for name, value in provenance.items()]
    finished = sorted(row["finished_at"][:16] for row in rows if row.get("finished_at"))
    span = " to ".join(dict.fromkeys((finished[0], finished[-1]))) if finished else ""
    items.append(("computed", [f"{span} UTC"] if span else []))
    for title, columns in SETTINGS.items():
        values = {tuple(row.get(column) for column in columns) for row in rows}
        told = {" · ".join(str(v) for v in value if v is not None) for value in values}
        items.append((title, sorted(told - {""})))
    return items
