"""The words and the HTML around the figure: stories of rows, published values, the whole page.

The page is one file that opens without a network. Whatever comes from rows reaches it as JSON whose
`<` are escaped, and its scripts put it on screen as text. A server that shows a running sweep sends
the same JSON again.
"""

from __future__ import annotations

import html
import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any

from orchestrator.results import (
    SCHEMA,
    Row,
    format_perplexity,
    key_of,
    mean_and_std,
    sort_key,
    task_columns_of,
)

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


def story(rows: Sequence[Row]) -> tuple[str, ...]:
    """The rows of one point (its seeds) in words: a title line, then a line a fact."""
    done = [row for row in rows if row["status"] == "done"]
    first = (done or rows)[0]
    if first["method"] == "dense":
        title = "dense" if first["regime"] == "dense" else "dense, fine-tuned alike"
    else:
        target = first.get("mask_structure") or f"sparsity {first['sparsity']:g}"
        title = f"{first['method']} · {first['regime']} · {target}"
    seeds = ", ".join(str(row["seed"]) for row in rows if row.get("seed") is not None)
    return (
        title,
        *_perplexity_lines(done),
        *_treatment_lines(first, done),
        *([f"seed {seeds}"] if seeds else []),
        *_trouble_lines(rows),
    )


def _mean(rows: Iterable[Row], column: str) -> float | None:
    return mean_and_std([row[column] for row in rows if row.get(column) is not None])[0]


def _perplexity_lines(done: Sequence[Row]) -> list[str]:
    values = [row["perplexity"] for row in done if row["perplexity"] is not None]
    mean, std = mean_and_std(values)
    if mean is None:
        return [f"perplexity {value}" for value in values[:1]]
    count = sum(map(math.isfinite, values))
    lines = [f"perplexity {format_perplexity(mean, std)}" + f" ({count} seeds)" * (count > 1)]
    dense, before = _mean(done, "dense_perplexity"), _mean(done, "perplexity_before_finetune")
    if dense is not None and done[0]["regime"] != "dense":
        lines.append(f"dense {dense:.4g}, change {mean - dense:+.4g} ({mean / dense - 1:+.1%})")
    if before is not None:
        lines.append(f"before fine-tuning {format_perplexity(before)}")
    return lines


def _treatment_lines(first: Row, done: Sequence[Row]) -> list[str]:
    lines = []
    measured, worst = _mean(done, "measured_sparsity"), _mean(done, "measured_sparsity_worst")
    if measured is not None and first["method"] != "dense":
        beside = f" (worst matrix {worst:.6g})" if worst is not None else ""
        lines.append(f"measured sparsity {measured:.6g}{beside}")
    if tokens := first.get("num_finetune_tokens"):
        turn = f", round {first['round']}" if first.get("round") else ""
        turns = f" of {first['num_rounds']}" if turn and first.get("num_rounds") else ""
        rate = f", learning rate {first['finetune_lr']:g}" if first.get("finetune_lr") else ""
        lines.append(f"trained on {tokens:,} tokens{turn}{turns}{rate}")
    if settings := first.get("finetune_settings"):
        lines.append(f"training {settings}")
    if text := first.get("calibration_text"):
        size = first.get("calibration_tokens")
        lines.append(f"calibration {text}" + (f", {size:,} tokens" if size else ""))
    stages = [(name, _mean(done, f"{name}_seconds")) for name in ("prune", "finetune", "evaluate")]
    if spent := [f"{name} {seconds:.3g} s" for name, seconds in stages if seconds]:
        lines.append(", ".join(spent))
    return lines


def _trouble_lines(rows: Sequence[Row]) -> list[str]:
    """What befell the seeds that give no perplexity, with as much of the error as reads well."""
    lines = []
    for row in rows:
        finite = row.get("perplexity") is not None and math.isfinite(row["perplexity"])
        if row["status"] == "done" and finite:
            continue
        what = f"perplexity {row['perplexity']}" if row["status"] == "done" else row["status"]
        whose = f"seed {row['seed']}: " if row.get("seed") is not None and len(rows) > 1 else ""
        lines.append(f"{whose}{what.replace('_', ' ')}")
        error = textwrap.shorten(row.get("error") or "", 240, placeholder=" ...")
        lines += textwrap.wrap(error, 60)
    return lines


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
