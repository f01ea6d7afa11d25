"""What stages recorded on the way to each row: layers pruned and losses trained at.

Place in the flow: beside the rows, from the stages' manifests to the page; no row needs it. Stages
of older stores recorded less, and then less is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.results.numbers import MAX_LOSSES, thinned
from orchestrator.results.schema import Row

Manifest = Callable[[str], dict[str, Any] | None]
MANY_LOSSES = 200_000
"""Points of all loss curves of a page; where there are more, each curve has fewer."""


def details_of(rows: Iterable[Row], manifest: Manifest) -> dict[str, Any]:
    """Layers and losses behind the rows of the current grid, as plain JSON values.

    Args:
        rows: with their `stage_id`, the cell's last stage.
        manifest: a stage's manifest, None for the dense model and for what is not stored.

    Returns:
        `stages`: for each row's stage its last prune stage and its training stages in order;
        `layers` by prune stage: errors and sparsity of each matrix, and in `names` at which index
        their names are; `losses` by training stage: tokens, the part an earlier process trained,
        and the losses of the rest.
    """
    known: dict[str, dict[str, Any] | None] = {}

    def found(stage: str) -> dict[str, Any] | None:
        if stage not in known:
            known[stage] = manifest(stage)
        return known[stage]

    stages: dict[str, tuple[str | None, list[str]]] = {}
    layers: dict[str, dict[str, Any]] = {}
    trained: dict[str, dict[str, Any]] = {}
    names: list[list[str]] = []
    for row in rows:
        last = row.get("stage_id")
        if not row["in_current_grid"] or last is None or last in stages:
            continue
        pruned, training, stage = None, [], last
        while stage is not None and (record := found(stage)) is not None:
            if record["kind"] == "prune" and pruned is None:
                pruned = stage
                if stage not in layers and "matrices" in record["metrics"]:
                    layers[stage] = _layers(record["metrics"]["matrices"], names)
            if record["kind"] == "finetune":
                training.insert(0, stage)
                trained.setdefault(stage, record["metrics"])
            stage = record["parent"]
        if pruned is not None or training:
            stages[last] = (pruned, training)
    points = max(20, min(MAX_LOSSES, MANY_LOSSES // max(1, len(trained))))
    losses = {stage: _losses(metrics, points) for stage, metrics in trained.items()}
    return {"stages": stages, "names": names, "layers": layers, "losses": losses}


def _layers(matrices: dict[str, Any], names: list[list[str]]) -> dict[str, Any]:
    """What a page needs of a prune stage's matrices; a sparsity that all share is written once."""
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
    losses, before = metrics.get("losses") or [], metrics.get("steps_resumed") or 0
    steps = metrics.get("num_steps") or before + len(losses)
    return {
        "tokens": metrics["num_tokens"],
        "resumed": before / steps if steps else 0.0,
        "values": [round(loss, 4) for loss in thinned(losses, points)],
    }
