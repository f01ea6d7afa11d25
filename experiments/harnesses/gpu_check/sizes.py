"""Sizes of the work: on a GPU, in a rehearsal on a CPU, and in tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sizes:
    """Sizes of all parts. Lengths are tokens."""

    calibration: tuple[int, int] = (32, 128)
    """Windows and their length for the embedded model."""
    evaluation: tuple[int, int] = (32, 128)
    training: tuple[int, int, int] = (8, 8, 128)
    """Steps, windows a step, and their length for the embedded model."""
    shrink: int = 1
    """Divisor of the widths of known models."""
    whole: tuple[int, int] = (128, 2048)
    """Calibration windows of whole models, and their length."""
    batch: tuple[int, int, int] = (8, 4, 2048)
    """Windows of a training step, of one forward pass, and their length."""
    scored: tuple[int, int] = (32, 2048)
    """Windows of an evaluation, and their length."""


SIZES = {
    "gpu": Sizes(),
    "rehearsal": Sizes(
        calibration=(8, 128),
        evaluation=(8, 128),
        training=(6, 4, 64),
        shrink=32,
        whole=(8, 256),
        batch=(4, 2, 128),
        scored=(8, 256),
    ),
    "smallest": Sizes(
        calibration=(4, 64),
        evaluation=(4, 64),
        training=(2, 4, 32),
        shrink=32,
        whole=(2, 64),
        batch=(2, 1, 64),
        scored=(2, 64),
    ),
}


@dataclass(frozen=True)
class Place:
    """The place where a case runs, and how large it is."""

    device: str
    """`cuda` or `cpu`."""
    sizes: Sizes
    folder: Path
    """An empty folder for the files of the part."""
    reference: Path | None = None
    """A checkout of the original SparseGPT code."""

    @property
    def rehearsal(self) -> bool:
        """True if a CPU plays the GPU."""
        return self.device != "cuda"
