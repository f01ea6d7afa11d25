"""A case's finding, and the row that becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["passed", "failed", "skipped", "not_run"]


class Skipped(Exception):  # noqa: N818
    """A case cannot run here. The message is the reason."""


@dataclass
class Finding:
    """Result of one case."""

    text: str
    """The result in a few words."""
    figures: dict[str, Any] = field(default_factory=dict)
    """The result as numbers."""
    broken: list[str] = field(default_factory=list)
    """The bounds that the result broke, in words; the case failed if there are any."""

    def require(self, kept: bool, bound: str) -> None:
        """Note a bound that was not kept."""
        if not kept:
            self.broken.append(bound)


@dataclass(frozen=True)
class Row:
    """One case of one part, as the table, the JSON file and the page show it."""

    part: str
    case: str
    status: Status
    seconds: float
    text: str
    figures: dict[str, Any] = field(default_factory=dict)
