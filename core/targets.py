"""Targets of a prune step: a sparsity, or an N:M mask structure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from core.checks import require


@dataclass(frozen=True)
class MaskStructure:
    """N:M sparsity: of every `group` consecutive inputs of a row exactly `survivors` survive."""

    survivors: int
    group: int

    @classmethod
    def parse(cls, text: str, flag: str = "mask-structures") -> MaskStructure:
        """Reads `"N:M"`; raises ValueError unless 0 < N < M."""
        match = re.fullmatch(r"(\d+):(\d+)", text)
        require(match is not None, flag, repr(text), "write N:M, for example 2:4")
        assert match is not None
        survivors, group = int(match[1]), int(match[2])
        require(
            0 < survivors < group,
            flag,
            text,
            "N of every M inputs survive, so 0 < N < M, for example 2:4",
        )
        return cls(survivors, group)

    @property
    def sparsity(self) -> float:
        """Fraction pruned, 1 - N/M."""
        return 1 - self.survivors / self.group

    def __str__(self) -> str:
        return f"{self.survivors}:{self.group}"


@dataclass(frozen=True)
class Target:
    """What a prune step aims at: a sparsity, or a mask structure (then the sparsity follows)."""

    sparsity: float
    """Fraction of zeros wanted in each pruned matrix, 0 to 1."""
    mask_structure: str | None = None
    """`"N:M"` or None for unstructured."""

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.sparsity) and 0 <= self.sparsity <= 1,
            "sparsities",
            self.sparsity,
            "a sparsity is a fraction between 0 and 1",
        )

    @classmethod
    def structured(cls, text: str) -> Target:
        """The target of an N:M structure."""
        return cls(round(MaskStructure.parse(text).sparsity, 6), text)
