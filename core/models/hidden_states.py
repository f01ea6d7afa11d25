"""Hidden states of micro-batches between two blocks: in host memory, past a limit on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

HOST_SHARE = 0.5
"""Part of the free host memory that hidden states may fill before they go to disk."""


class HiddenStates:
    """A list of tensors that are on the device only while they are read.

    Args:
        device: where they are computed.
        folder: directory for the files of those past the limit; None is the system's own.
        limit_bytes: host memory that they may take; by default half of what is free now.
    """

    def __init__(
        self, device: torch.device, folder: Path | None = None, limit_bytes: float | None = None
    ) -> None:
        self.device, self.folder = device, folder
        free = HOST_SHARE * psutil.virtual_memory().available
        self.room = free if limit_bytes is None else limit_bytes
        self.kept: list[Tensor] = []

    def append(self, hidden: Tensor) -> None:
        """Add the states of one more micro-batch."""
        size = hidden.numel() * hidden.element_size()
        self.room -= size
        if self.room < 0:
            self.kept.append(mapped_like(hidden, self.folder))
        else:
            pinned = self.device.type == "cuda"
            self.kept.append(torch.empty_like(hidden, device="cpu", pin_memory=pinned))
        self[len(self) - 1] = hidden

    def __len__(self) -> int:
        return len(self.kept)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Tensor:
        return self.kept[index].to(self.device, non_blocking=True)

    def __setitem__(self, index: int, hidden: Tensor) -> None:
        self.kept[index].copy_(hidden)


def mapped_like(tensor: Tensor, folder: Path | None) -> Tensor:
    """Return a tensor of the same shape and dtype whose bytes lie in a file without a name.

    The system removes the file when the tensor goes, also if the process is killed.
    """
    size = tensor.numel() * tensor.element_size()
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(size)
        pages = np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,))
    return torch.from_numpy(pages).view(tensor.dtype).view(tensor.shape)
