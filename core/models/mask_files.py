"""Masks of a model's matrices, and their bit-packed file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

MASKS_FILE = "masks.safetensors"


def save_masks(path: Path, masks: Masks) -> None:
    """Write masks bit-packed; the header holds their shapes."""
    packed = {n: torch.from_numpy(np.packbits(m.numpy().reshape(-1))) for n, m in masks.items()}
    shapes = json.dumps({name: list(mask.shape) for name, mask in masks.items()})
    save_file(packed, path, metadata={"shapes": shapes})


def load_masks(path: Path) -> Masks:
    """Read masks that `save_masks` wrote."""
    with safe_open(path, framework="pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
    masks = {}
    for name, packed in load_file(path).items():
        shape = shapes[name]
        bits = np.unpackbits(packed.numpy(), count=int(np.prod(shape)))
        masks[name] = torch.from_numpy(bits.astype(bool)).view(shape)
    return masks


Masks = dict[str, Tensor]
"""Full masks on every rank by qualified module name, True = the weight survives."""
