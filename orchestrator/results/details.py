"""Facts that stages recorded on the way to each row: errors of layers and losses of training.

They go from the manifests of stages straight to the page; no row holds them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.plan.kinds import kind_of
from orchestrator.results.numbers import MAX_LOSSES, thinned
from orchestrator.results.schema import Row

Manifest = Callable[[str], dict[str, Any] | None]
MANY_LOSSES = 200_000
"""Most points of all loss curves of a page together; many curves have fewer points each."""


def details_of(rows: Iterable[Row], manifest: Manifest) -> dict[str, Any]:
    """Return layers and losses behind the rows of the current grid, as plain JSON values.

    Args:
        rows: Rows with their `stage_id`, the cell's last stage.
        manifest: Returns a stage's manifest, None for the dense model and for a stage that is not
            stored.

    Returns:
        A dict of four. `stages`: for each row's stage its last prune stage and its training stages
        in order. `names`: lists of names of matrices. `layers`: for each prune stage the errors and
        sparsities of its matrices, and the index of their names. `losses`: for each training stage
        its tokens, the part that an earlier process trained, and the losses of the rest.
    """
    read = functools.cache(manifest)
    stages: dict[str, tuple[str | None, list[str]]] = {}
    pruned: dict[str, dict[str, Any]] = {}
    trained: dict[str, dict[str, Any]] = {}
    for row in rows:
        last = row.get("stage_id")
        if not row["in_current_grid"] or last is None or last in stages:
            continue
        history = _history(last, read)
        masked = [stage for stage, record in history if kind_of(record).changes_masks][-1:]
        training = [stage for stage, record in history if kind_of(record).trains]
        metrics = {stage: record["metrics"] for stage, record in history}
        pruned |= {stage: metrics[stage]["matrices"] for stage in masked}
        trained |= {stage: metrics[stage] for stage in training}
        if masked or training:
            stages[last] = (masked[0] if masked else None, training)
    names: list[list[str]] = []
    layers = {stage: _layers(matrices, names) for stage, matrices in pruned.items()}
    points = max(20, min(MAX_LOSSES, MANY_LOSSES // max(1, len(trained))))
    losses = {stage: _losses(metrics, points) for stage, metrics in trained.items()}
    return {"stages": stages, "names": names, "layers": layers, "losses": losses}


def _history(last: str, read: Manifest) -> list[tuple[str, dict[str, Any]]]:
    """Return the stored stages up to `last` with their manifests, in the order they were run."""
    found: list[tuple[str, dict[str, Any]]] = []
    stage: str | None = last
    while stage is not None and (record := read(stage)) is not None:
        found.insert(0, (stage, record))
        stage = record["parent"]
    return found


def _layers(matrices: dict[str, Any], names: list[list[str]]) -> dict[str, Any]:
    """Return the page's facts of a prune stage's matrices; a sparsity they share stands once."""
    if matrices["names"] not in names:
        names.append(matrices["names"])
    sparsity = matrices["sparsity"]
    return {
        "names": names.index(matrices["names"]),
        "statistic": matrices["statistic"],
        "errors": None if not any(matrices["errors"]) else matrices["errors"],
        "sparsity": sparsity[0] if len(set(sparsity)) == 1 else sparsity,
    }


def _losses(metrics: dict[str, Any], points: int) -> dict[str, Any]:
    steps = metrics["num_steps"]
    return {
        "tokens": metrics["num_tokens"],
        "resumed": metrics["steps_resumed"] / steps if steps else 0.0,
        "values": [round(loss, 4) for loss in thinned(metrics["losses"], points)],
    }
