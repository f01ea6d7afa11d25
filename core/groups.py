"""Matrices that read the same input, which are solved together."""

from __future__ import annotations

from dataclasses import dataclass

from core.models.matrices import Matrix
from core.pruners.pruner import Statistic


@dataclass(frozen=True)
class Group:
    """Matrices of one block that read the same input, and the statistic of that input."""

    matrices: list[Matrix]
    statistic: Statistic | None
    routed: dict[str, int] | None = None
    """Tokens that the router sent to each expert among them, on this rank, by the expert's path;
    None for matrices that all tokens reach."""
