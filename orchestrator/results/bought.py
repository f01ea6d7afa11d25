"""Columns of what pruning buys: bytes in a sparse form, and seconds where they were measured.

Rows of stages that earlier versions stored lack what these did not record.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.measures.sparse_bytes import sparse_bytes
from core.precision import DTYPES
from orchestrator.plan.kinds import Speed, kind_of

KERNELS = {"dense_kernels": "", "sparse_kernels": "sparse_"}
"""Groups of a speed stage's metrics, each with the start of its columns."""


def bytes_columns(
    weights: Mapping[str, Any], evaluated: Mapping[str, Any], dtype: str
) -> dict[str, Any]:
    """Return the bytes of a cell's model, dense and in a sparse form.

    Args:
        weights: metrics of the stage with the weights; empty for the dense model.
        evaluated: metrics of its evaluation.
        dtype: of the stored weights.
    """
    count, masks = evaluated.get("num_parameters"), weights.get("mask_bytes")
    size = DTYPES[dtype].itemsize
    if count is None:
        return {}
    if weights and masks is None:
        return {"dense_bytes": count * size}
    pruned = weights.get("num_pruned", 0)
    return {
        "dense_bytes": count * size,
        "sparse_bytes": sparse_bytes(count, pruned, masks or 0, size),
    }


def speed_columns(manifest: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the seconds of a speed stage, medians and spreads, and the device they are of."""
    if manifest is None or kind_of(manifest) is not Speed:
        return {}
    metrics, columns = manifest["metrics"], dict[str, Any]()
    for group, start in KERNELS.items():
        for name, timing in (metrics[group] or {}).items():
            if isinstance(timing, Mapping):
                columns[f"{start}{name}_seconds"] = timing["seconds"]
                columns[f"{start}{name}_spread"] = timing["spread"]
    notes = [metrics[name] for name in ("no_dense_kernels", "no_sparse_kernels") if name in metrics]
    return {
        **columns,
        "speed_device": manifest["environment"]["machine"],
        **({"speed_note": "; ".join(notes)} if notes else {}),
    }
