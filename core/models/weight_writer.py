"""A model's weights written to safetensors one tensor at a time, in any order.

`safetensors.save_file` wants all tensors of a file in memory. Shapes and dtypes are enough for the
header, so here each tensor goes to its place as it comes. Files equal those of `save_file`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from core.models.sources import WEIGHTS_INDEX, weight_paths

MAX_SHARD_SIZE = "5GB"
"""Bytes of weights in one file, with a unit; one larger tensor has a file of its own."""
DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of dtypes in a header, in the order in which tensors lie in a file."""


def write_header(
    file: BinaryIO, layout: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> dict[str, int]:
    """Write the header of a safetensors file; return where in the file each tensor begins."""
    begins, kinds, end = dict[str, int](), list(DTYPES), 0
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    for name in sorted(layout, key=lambda name: (kinds.index(layout[name].dtype), name)):
        start, end = end, end + layout[name].nbytes
        dtype, shape = DTYPES[layout[name].dtype], list(layout[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        begins[name] = start
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return {name: file.tell() + start for name, start in begins.items()}


def write_index(directory: Path, metadata: object, file_of: Mapping[str, str]) -> None:
    """Write the index of a model in several files: the file of each tensor by its name."""
    index = {"metadata": metadata, "weight_map": file_of}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (directory / WEIGHTS_INDEX).write_text(text, encoding="utf-8")


class TensorFile:
    """One safetensors file that is open for writing."""

    def __init__(self, file: BinaryIO, layout: Mapping[str, Tensor]) -> None:
        """Write the header.

        Args:
            file: an empty file.
            layout: all tensors of the file by name. Only shapes and dtypes count.
        """
        self.file, self.begins = file, write_header(file, layout, {"format": "pt"})

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor at its place."""
        self.file.seek(self.begins[name])
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        self.file.write(flat.view(torch.uint8).numpy().data)


class WeightWriter:
    """Writes the weights of a directory, in several files past a size.

    A context manager: at its end the index is written, if nothing failed.
    """

    def __init__(
        self, directory: Path, layout: Mapping[str, Tensor], max_shard_size: str | int
    ) -> None:
        self.directory, self.layout = directory, layout
        self.split = split_torch_state_dict_into_shards(dict(layout), max_shard_size=max_shard_size)
        self.files: dict[str, TensorFile] = {}
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        for old in weight_paths(self.directory):
            old.unlink()
        with self.stack:
            for name, tensors in self.split.filename_to_tensors.items():
                file = self.stack.enter_context(open(self.directory / name, "wb"))
                self.files[name] = TensorFile(file, {n: self.layout[n] for n in tensors})
            self.stack = self.stack.pop_all()
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor by its name in the file."""
        self.files[self.split.tensor_to_filename[name]].write(name, tensor)

    def __exit__(self, kind: object, *_: object) -> None:
        self.stack.close()
        if kind is None and self.split.is_sharded:
            write_index(self.directory, self.split.metadata, self.split.tensor_to_filename)
