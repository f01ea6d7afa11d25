"""Masks of a model's matrices, bit-packed in host memory and in their file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.models.weight_writer import write_header

MASKS_FILE = "masks.safetensors"


def save_masks(path: Path, masks: Masks) -> None:
    """Write masks bit-packed; the header holds their shapes."""
    bits, shapes = dict[str, Tensor](), dict[str, list[int]]()
    for name, mask in masks.items():
        bits[name], shapes[name] = packed(mask), list(mask.shape)
    save_file(bits, path, metadata={"shapes": json.dumps(shapes)})


def load_masks(path: Path) -> Masks:
    """Read masks that `save_masks` wrote."""
    with safe_open(path, framework="pt") as file:
        shapes = json.loads(file.metadata()["shapes"])
    masks = PackedMasks()
    for name, bits in load_file(path).items():
        masks.bits[name] = bits.clone(), shapes[name]
    return masks


def packed(mask: Tensor) -> Tensor:
    """Return the bits of a mask on the CPU, eight to a byte, row after row."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def unpacked(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the mask of a shape whose bits `packed` returned."""
    found = np.unpackbits(bits.numpy(), count=int(np.prod(shape)))
    return torch.from_numpy(found.view(bool)).view(*shape)


Masks = Mapping[str, Tensor]
"""Full masks by qualified module name, True = the weight survives."""


class PackedMasks(MutableMapping[str, Tensor]):
    """Masks that are held as bits. A read makes the booleans of one mask, on the CPU."""

    def __init__(self, masks: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        self.bits: dict[str, tuple[Tensor, Sequence[int]]] = {}
        """The bits and the shape of each mask."""
        self.update(masks)

    def __getitem__(self, name: str) -> Tensor:
        return unpacked(*self.bits[name])

    def __setitem__(self, name: str, mask: Tensor) -> None:
        self.bits[name] = packed(mask), tuple(mask.shape)

    def __delitem__(self, name: str) -> None:
        del self.bits[name]

    def __contains__(self, name: object) -> bool:
        return name in self.bits

    def __iter__(self) -> Iterator[str]:
        return iter(self.bits)

    def __len__(self) -> int:
        return len(self.bits)


class MaskFile(MutableMapping[str, Tensor]):
    """Masks that lie in a file as `save_masks` writes it, and are read one at a time."""

    def __init__(self, path: Path, shapes: Mapping[str, list[int]]) -> None:
        """Make a file with room for the mask of every matrix."""
        self.path, self.shapes, self.written = path, dict(shapes), set[str]()
        layout = {
            name: torch.empty(-(-math.prod(shape) // 8), dtype=torch.uint8, device="meta")
            for name, shape in self.shapes.items()
        }
        with open(path, "wb") as file:
            self.begins = write_header(file, layout, {"shapes": json.dumps(self.shapes)})
            file.truncate(file.tell() + sum(bits.nbytes for bits in layout.values()))

    def __setitem__(self, name: str, mask: Tensor) -> None:
        with open(self.path, "r+b") as file:
            file.seek(self.begins[name])
            file.write(packed(mask).numpy().tobytes())
        self.written.add(name)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.written:
            raise KeyError(name)
        with safe_open(self.path, framework="pt") as file:
            return unpacked(file.get_tensor(name), self.shapes[name])

    def __delitem__(self, name: str) -> None:
        self.written.remove(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.shapes if name in self.written)

    def __len__(self) -> int:
        return len(self.written)
