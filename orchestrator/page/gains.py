"""Bytes and seconds that pruning buys: values of points, and honest words on them.

Seconds of different devices are never mixed: a page shows those of one device and names the
others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core.measures.sparse_bytes import sparse_bytes
from orchestrator.results.board import Board
from orchestrator.results.numbers import mean_and_std
from orchestrator.results.points import Point
from orchestrator.results.schema import Row

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
ACTIONS = {"decode": "decodes a token", "prefill": "reads a prompt"}
"""Measured actions by the start of their columns."""
KERNELS = ("", "sparse_")
"""Starts of columns: dense kernels, sparse ones."""


def device_among(rows: Iterable[Row]) -> str | None:
    """Return the device that most measured seconds are of; None if nothing was measured."""
    counts = Counter(row["speed_device"] for row in rows if row.get("speed_device"))
    return max(counts, key=lambda name: (counts[name], name)) if counts else None


def bytes_of(rows: Sequence[Row]) -> float | None:
    """Return the mean bytes of a cell's models in a sparse form.

    Rows of earlier versions do not know the whole model: of them, prunable matrices count.
    """
    known = [row["sparse_bytes"] for row in rows if row.get("sparse_bytes")]
    if known:
        return mean_and_std(known)[0]
    counts = ((row.get("num_prunable"), row.get("num_pruned"), row) for row in rows)
    return mean_and_std(
        [
            sparse_bytes(total, pruned, -(-total // 8), size_of(row))
            for total, pruned, row in counts
            if total is not None and pruned is not None
        ]
    )[0]


def size_of(row: Row) -> int:
    """Return the bytes of one value."""
    return BYTES.get((row.get("dtype") or "").removeprefix("torch."), 4)


def seconds_of(rows: Sequence[Row], device: str | None) -> dict[str, float]:
    """Return the mean measured seconds of a cell on a device, by column; absent ones are left out.

    Spreads of single measurements are averaged too.
    """
    mine = [row for row in rows if device is not None and row.get("speed_device") == device]
    found = {}
    for name in (f"{kernels}{action}" for kernels in KERNELS for action in ACTIONS):
        for value in ("seconds", "spread"):
            values = [row[f"{name}_{value}"] for row in mine if row.get(f"{name}_{value}")]
            mean = mean_and_std(values)[0]
            if mean is not None:
                found[f"{name}_{value}"] = mean
    return found


def gains_of(board: Board, rows: Mapping[str, Row], device: str | None) -> dict[str, Any]:
    """Return sentences on bytes and on each measured action, and the dense model's seconds."""

    def rows_of(point: Point | None) -> list[Row]:
        return [rows[key] for key in point.rows] if point else []

    cells = [
        (f"{line.name} at {target.label}", rows_of(point))
        for line in board.lines
        if not line.is_control
        for target, point in zip(board.targets, line.cells)
        if point and point.is_whole
    ]
    dense = seconds_of(rows_of(board.dense), device)
    told = {"bytes": bytes_told(cells)}
    for action in ACTIONS:
        measured = [(name, seconds_of(mine, device)) for name, mine in cells]
        told[action] = action_told(action, measured, dense, device)
    return {**told, "dense": {name: round(value, 9) for name, value in dense.items()}}


def bytes_told(cells: Iterable[tuple[str, Sequence[Row]]]) -> str:
    """Say how small the smallest cell is, and how many gain nothing."""
    ratios = {
        name: mean / dense
        for name, rows in cells
        if (mean := bytes_of(rows)) and (dense := rows[0].get("dense_bytes"))
    }
    if not ratios:
        return ""
    least = min(ratios, key=lambda name: ratios[name])
    told = f"Smallest: {least}, {ratios[least]:.2f}× the dense model's bytes."
    vain = sum(ratio >= 1 for ratio in ratios.values())
    if vain:
        told += f" No gain in {vain} of {len(ratios)} cells: the mask costs what the zeros save."
    return told


def action_told(
    action: str,
    cells: Sequence[tuple[str, Mapping[str, float]]],
    dense: Mapping[str, float],
    device: str | None,
) -> str:
    """Say which cells are faster than the dense model by more than the spreads of both."""
    if device is None or f"{action}_seconds" not in dense:
        return ""
    told = [f"On {device}."]
    for kernels, name in zip(KERNELS, ("dense kernels", "sparse kernels")):
        column = f"{kernels}{action}"
        ratios = {
            cell: seconds[f"{column}_seconds"] / dense[f"{action}_seconds"]
            for cell, seconds in cells
            if f"{column}_seconds" in seconds
        }
        faster = [
            cell
            for cell, seconds in cells
            if cell in ratios
            and upper(seconds, column) < dense[f"{action}_seconds"] - dense[f"{action}_spread"]
        ]
        if not ratios:
            continue
        if not faster:
            why = "; they multiply zeros like other numbers" if not kernels else ""
            told.append(
                f"No gain with {name}: no cell {ACTIONS[action]} faster than dense beyond the "
                f"spread of both{why}."
            )
            continue
        best = min(faster, key=lambda cell: ratios[cell])
        told.append(
            f"With {name} {len(faster)} of {len(ratios)} cells are faster than dense beyond the "
            f"spread of both; fastest: {best}, {ratios[best]:.2f}×."
        )
    return " ".join(told)


def upper(seconds: Mapping[str, float], column: str) -> float:
    """Return a time with its spread."""
    return seconds[f"{column}_seconds"] + seconds.get(f"{column}_spread", 0.0)
