"""Masks of a model's matrices, and their bit-packed file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

MASKS_FILE = "masks.safetensors"


def save_masks(path: Path, masks: Masks) -> None:
    """Write masks bit-packed; the header holds their shapes."""
    shapes = json.dumps({name: list(mask.shape) for name, mask in masks.items()})
    bits = {name: packed(mask) for name, mask in masks.items()}
    save_file(bits, path, metadata={"shapes": shapes})


def load_masks(path: Path) -> Masks:
    """Read masks that `save_masks` wrote."""
    with safe_open(path, framework="pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
    return {name: unpacked(bits, shapes[name]) for name, bits in load_file(path).items()}


def packed(mask: Tensor) -> Tensor:
    """Return the bits of a mask on the CPU, eight to a byte, row after row."""
    return torch.from_numpy(np.packbits(mask.numpy().reshape(-1)))


def unpacked(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the mask of a shape whose bits `packed` returned."""
    found = np.unpackbits(bits.numpy(), count=int(np.prod(shape)))
    return torch.from_numpy(found.astype(bool)).view(*shape)


Masks = dict[str, Tensor]
"""Full masks on every rank by qualified module name, True = the weight survives."""
