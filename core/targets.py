"""Targets of a prune step: a sparsity, or an N:M mask structure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property

from core.checks import require
from core.typed_values import give_types_


@dataclass(frozen=True)
class MaskStructure:
    """N:M sparsity: of every `group` consecutive inputs of a row exactly `survivors` survive."""

    survivors: int
    group: int

    @classmethod
    def parse(cls, text: str, flag: str = "mask-structures") -> MaskStructure:
        """Read `"N:M"`.

        Raises:
            ValueError: it is something else, or not 0 < N < M.
        """
        match = re.fullmatch(r"(\d+):(\d+)", text)
        require(match is not None, flag, repr(text), "write N:M, for example 2:4")
        assert match is not None
        survivors, group = int(match[1]), int(match[2])
        remedy = "N of every M inputs survive, so 0 < N < M, for example 2:4"
        require(0 < survivors < group, flag, text, remedy)
        return cls(survivors, group)

    @property
    def sparsity(self) -> float:
        """Fraction pruned, 1 - N/M."""
        return 1 - self.survivors / self.group

    def __str__(self) -> str:
        return f"{self.survivors}:{self.group}"


@dataclass(frozen=True)
class Target:
    """Aim of a prune step: a sparsity, or a mask structure (then the sparsity follows)."""

    sparsity: float
    """Fraction of zeros wanted in each pruned matrix, 0 to 1."""
    mask_structure: str | None = None
    """`"N:M"` or None for unstructured."""

    def __post_init__(self) -> None:
        give_types_(self)
        remedy = "a sparsity is a fraction between 0 and 1"
        is_fraction = math.isfinite(self.sparsity) and 0 <= self.sparsity <= 1
        require(is_fraction, "sparsities", self.sparsity, remedy)

    @classmethod
    def structured(cls, text: str) -> Target:
        """Return the target of an N:M structure."""
        structure = MaskStructure.parse(text)
        return cls(round(structure.sparsity, 6), str(structure))

    @cached_property
    def structure(self) -> MaskStructure | None:
        """The parsed mask structure; None for unstructured."""
        return None if self.mask_structure is None else MaskStructure.parse(self.mask_structure)

    @property
    def label(self) -> str:
        """The target as people read it: `0.5` or `2:4`."""
        return self.mask_structure or f"{self.sparsity:g}"

    @property
    def order(self) -> tuple[bool, float, str]:
        """Sort key: rising sparsities, then mask structures."""
        return self.mask_structure is not None, self.sparsity, self.mask_structure or ""
