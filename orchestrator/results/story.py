"""The rows of one point in words, as the page shows them over the figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

from orchestrator.results.names import CellName
from orchestrator.results.numbers import format_perplexity, mean_and_std
from orchestrator.results.schema import Row


def story(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the rows of one point (its seeds) in words: a title, then a line for each fact."""
    done = [row for row in rows if row["status"] == "done"]
    first = (done or rows)[0]
    seeds = ", ".join(str(row["seed"]) for row in rows if row.get("seed") is not None)
    return (
        CellName.of_row(first).title,
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
    """Say why seeds have no perplexity, with the first part of each error."""
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
