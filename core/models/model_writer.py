"""New files of a streamed model: one shard a block, written as blocks come, and its masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from core.models.blocks import prunable_blocks
from core.models.mask_files import MASKS_FILE, MaskFile
from core.models.weight_writer import write_index


class ModelWriter:
    """Writes the shards of a model in any order, then their index."""

    def __init__(self, directory: Path, model: PreTrainedModel, routers: bool = False) -> None:
        """Begin to write a model like this one into a directory, which exists.

        With `routers`, routers and gates have masks too.
        """
        blocks = prunable_blocks(model, routers)
        matrices = [one for block in blocks for one in block.matrices.values()]
        shapes = {one.name: [one.rows, one.cols] for one in matrices}
        self.directory, self.num_shards = directory, 1 + len(blocks)
        self.masks = MaskFile(directory / MASKS_FILE, shapes)
        self.written: dict[int, Path] = {}
        self.file_of: dict[str, str] = {}

    def shard(self, number: int) -> Path:
        """Return the file of a shard: 0 is the root, then come the blocks."""
        return self.directory / f"model-{number + 1:05}-of-{self.num_shards:05}.safetensors"

    def write(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Write one shard whole."""
        aside = self.shard(number).with_suffix(".tmp")
        found = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(found, aside, metadata={"format": "pt"})
        self.written[number] = aside.rename(self.shard(number))
        self.file_of |= dict.fromkeys(found, self.written[number].name)

    def move(self, directory: Path) -> None:
        """Move all files into another directory of the same disk."""
        for path in self.directory.iterdir():
            path.rename(directory / path.name)

    def finish(self) -> None:
        """Write the index of all shards."""
        assert len(self.written) == self.num_shards
        size = sum(path.stat().st_size for path in self.written.values())
        write_index(self.directory, {"total_size": size}, self.file_of)
