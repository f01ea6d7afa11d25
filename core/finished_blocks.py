"""Blocks that are pruned: all that a process needs to go on after them, and a file for each.

`sequential.prune_` hands over each block once it is pruned, and takes up those of an earlier
process. The caller keeps them: in files of this module, or in another way.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.models.mask_files import Masks, packed, unpacked
from core.models.matrices import Reader
from core.parallel import whole
from core.pruners.quantise import Grid
from core.ranks import Ranks


@dataclass(frozen=True)
class FinishedBlock:
    """A block after pruning; the same on every rank."""

    index: int
    weights: Mapping[str, Reader]
    """A way to read the weight of each matrix by name: as the model holds it, or from a file."""
    masks: Masks
    """Full masks on the CPU, True = the weight survives."""
    grids: dict[str, Grid]
    """The grid to which the survivors of each matrix were rounded; empty if none were."""
    errors: dict[str, float | None]
    """`layer_error.relative_error` of every matrix."""
    fell_back: list[str]
    """Matrices whose method did not do better than its starting point (`Pruned.fell_back`)."""
    dampening_frac: float | None
    """The largest damping that a solve needed; None if the method has none."""
    expert_tokens: dict[str, int] = field(default_factory=dict)
    """Tokens that the router sent to each expert, by the expert's path."""


@dataclass(frozen=True)
class Resumption:
    """The way to blocks that an earlier process has pruned, and a keeper of those pruned now."""

    earlier: Callable[[int], FinishedBlock | None] = lambda index: None
    """Returns the finished block of an index, on all ranks alike; None if it is yet to prune."""
    keep: Callable[[FinishedBlock], None] = lambda block: None
    """Called after each block that is pruned now, on all ranks."""


def block_file(directory: Path, index: int) -> Path:
    """Return the path of a finished block."""
    return directory / f"block-{index:05}.safetensors"


def save_blocks(directory: Path, blocks: list[FinishedBlock], ranks: Ranks) -> None:
    """Write a file for each block; the ranks take turns to write (collective)."""
    for turn, block in enumerate(blocks):
        mine = turn % ranks.size == ranks.rank
        tensors: dict[str, Tensor] = {}
        for name, weight in block.weights.items():
            full = whole(weight())
            if mine:
                tensors[f"weight/{name}"] = full.cpu().contiguous()
        if mine:
            save_block(block_file(directory, block.index), block, tensors)


def save_block(path: Path, block: FinishedBlock, tensors: dict[str, Tensor]) -> None:
    """Write one block, whose full weights are in `tensors`; the header holds the rest as JSON."""
    tensors = dict(tensors)
    for name, mask in block.masks.items():
        tensors[f"mask/{name}"] = packed(mask)
    for name, grid in block.grids.items():
        tensors[f"scale/{name}"] = grid.scale.cpu().contiguous()
        tensors[f"zero/{name}"] = grid.zero.cpu().contiguous()
    record = {
        "index": block.index,
        "shapes": {name: list(mask.shape) for name, mask in block.masks.items()},
        "grids": {name: [grid.bits, grid.group_size] for name, grid in block.grids.items()},
        "errors": block.errors,
        "fell_back": block.fell_back,
        "dampening_frac": block.dampening_frac,
        "expert_tokens": block.expert_tokens,
    }
    save_file(tensors, path, metadata={"record": json.dumps(record)})


def load_block(path: Path) -> FinishedBlock:
    """Read a block that `save_block` wrote."""
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["record"])
        shapes = record["shapes"]
        grids = {
            name: Grid(file.get_tensor(f"scale/{name}"), file.get_tensor(f"zero/{name}"), *sizes)
            for name, sizes in record["grids"].items()
        }
        return FinishedBlock(
            index=record["index"],
            weights={n: functools.partial(got, file.get_tensor(f"weight/{n}")) for n in shapes},
            masks={n: unpacked(file.get_tensor(f"mask/{n}"), shape) for n, shape in shapes.items()},
            grids=grids,
            errors=record["errors"],
            fell_back=record["fell_back"],
            dampening_frac=record["dampening_frac"],
            expert_tokens=record.get("expert_tokens", {}),
        )


def got(tensor: Tensor) -> Tensor:
    """Return a tensor that was read before."""
    return tensor
