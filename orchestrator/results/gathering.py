"""Rows of a store as results show them: those of the grid marked, dense perplexity filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.plan.kinds import Tasks, kind_of
from orchestrator.results.record import Labels
from orchestrator.results.rows import labels_in, put_copy
from orchestrator.results.schema import TASK_PREFIX, Row
from orchestrator.store.rows import Rows


def copy_shared_rows(rows: Rows, labels: Labels) -> None:
    """Store a copy, under these labels, of each row that a sweep of other labels ran.

    Stages are named by what determines their numbers, so two protocols that read a text alike share
    them. Each keeps a row of its own.
    """
    stored = rows.read()
    for key, mine in labels.items():
        row = stored.get(key)
        if row is not None and mine != labels_in(row):
            put_copy(rows, key, {**row, **mine})


def gather(
    stored: Mapping[str, Row],
    labels: Labels,
    tasks: Mapping[str, Mapping[str, Any]] | None = None,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Row]:
    """Return the rows of a store as results show them.

    Args:
        stored: Rows by key. Names that begin with an underscore stay in the store.
        labels: Rows of the grid, from `labels_of`.
        tasks: Columns of task results by the stage that has the weights.
        columns: Columns that the grid gives, by cell, from `grid_columns`.
    """
    rows: list[tuple[bool, Row]] = []
    for key, row in stored.items():
        source = row.get("_copy_of", key)
        mine = labels_in(row)
        if source != key and source in stored and labels_in(stored[source]) == mine:
            continue  # The source has these labels itself by now.
        # A copy follows its source, and outlives one whose file cannot be read any more.
        rows.append((labels.get(source) == mine, {**stored.get(source, row), **mine}))
    dense = {r.get("_evaluation"): r["perplexity"] for _, r in rows if r["regime"] == "dense"}
    return [
        {
            **{name: value for name, value in row.items() if not name.startswith("_")},
            **(tasks or {}).get(row["stage_id"], {}),
            **(columns.get(row["cell_id"], {}) if columns and current else {}),
            "in_current_grid": current,
            "dense_perplexity": dense.get(row.get("_dense_evaluation", "")),
        }
        for current, row in rows
    ]


def task_columns(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return columns `task:NAME:METRIC`, and the harness's version, by the stage with the weights.

    NAME is `TASK`, or `TASK[:LIMIT]` where the number of documents is limited.
    """
    columns: dict[str, dict[str, Any]] = {}
    for manifest in manifests.values():
        if kind_of(manifest) is Tasks:
            limit = manifest["fields"]["limit"]
            name = manifest["label"] + ("" if limit is None else f"[:{limit}]")
            mine = columns.setdefault(manifest["parent"], {})
            for metric, value in manifest["results"].items():
                mine[f"{TASK_PREFIX}{name}:{metric}"] = value
            if used := manifest.get("environment", {}).get("lm_eval_version"):
                # Tasks that were added later may have run by another version.
                versions = {*filter(None, mine.get("lm_eval_version", "").split(", ")), used}
                mine["lm_eval_version"] = ", ".join(sorted(versions))
    return columns
