"""Rounds weights to a few bits, as the original GPTQ and SparseGPT codes do.

Each row, or each group of consecutive inputs of a row, has an asymmetric grid of `2^bits` values
from its lowest to its highest weight (arXiv 2210.17323; SparseGPT's joint mode, arXiv 2301.00774,
section 3.5). Zero is always on the grid, so a pruned weight stays exactly zero. Rounding happens
inside the solver's pass over the columns, and later columns compensate it as they compensate pruned
weights. Difference from the reference: the grids of groups are also found on the weights before
pruning. GPTQ finds the grid of a group only when its pass gets there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Grid:
    """`scale * (q - zero)` for whole q from 0 to `2^bits - 1`."""

    scale: Tensor
    """[rows, groups] float32."""
    zero: Tensor
    """[rows, groups] float32, whole numbers."""
    bits: int
    group_size: int
    """Inputs in a group; the last may have fewer."""

    def nearest(self, values: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Return the nearest values on the grid."""
        whole = (torch.round(values / scale) + zero).clamp(0, 2**self.bits - 1)
        return scale * (whole - zero)

    def round_column(self, values: Tensor, column: int) -> Tensor:
        """Return one column of a matrix, [rows], rounded."""
        group = column // self.group_size
        return self.nearest(values, self.scale[:, group], self.zero[:, group])

    def round(self, weight: Tensor) -> Tensor:
        """Return a matrix [rows, cols], rounded."""
        cols = weight.shape[1]
        scale, zero = (
            t.repeat_interleave(self.group_size, dim=1)[:, :cols] for t in (self.scale, self.zero)
        )
        return self.nearest(weight, scale, zero)

    def cpu(self) -> Grid:
        """Return the grid in host memory."""
        return replace(self, scale=self.scale.cpu(), zero=self.zero.cpu())

    def split(self, rows: list[int]) -> list[Grid]:
        """Return the grid of each of several matrices whose rows were stacked."""
        parts = zip(self.scale.split(rows), self.zero.split(rows))
        return [Grid(scale, zero, self.bits, self.group_size) for scale, zero in parts]


def find_grid(weight: Tensor, bits: int, group_size: int | None) -> Grid:
    """Return the grid of a matrix [rows, cols]; with `group_size` None each row is one group."""
    rows, cols = weight.shape
    size = min(group_size or cols, cols)
    # Zero is on every grid, so the last group may be filled up with zeros.
    groups = functional.pad(weight.float(), (0, -cols % size)).view(rows, -1, size)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    empty = low == high
    low, high = low.masked_fill(empty, -1.0), high.masked_fill(empty, 1.0)
    scale = (high - low) / (2**bits - 1)
    return Grid(scale, torch.round(-low / scale), bits, size)


def stacked(grids: Sequence[Grid]) -> Grid | None:
    """Return the grid of matrices stacked by rows, from that of each; None of none."""
    if not grids:
        return None
    scale, zero = (torch.cat(list(t)) for t in zip(*((one.scale, one.zero) for one in grids)))
    return replace(grids[0], scale=scale, zero=zero)


def save_grids(path: Path, grids: Mapping[str, Grid]) -> None:
    """Write scales and zero points of matrices by name; the header holds bits and group sizes."""
    tensors, header = {}, {}
    for name, grid in grids.items():
        tensors |= {f"{name}.scale": grid.scale.cpu(), f"{name}.zero": grid.zero.cpu()}
        header |= {f"{name}.bits": str(grid.bits), f"{name}.group_size": str(grid.group_size)}
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata=header)
