"""The sparsities of the rounds of an iterative branch, one after another.

- `grid`: the branch goes through the sweep's own sparsities, so one branch serves all cells.
- `linear` and `cubic`: the branch goes from dense to one target in a fixed number of rounds, so
  each target has its own branch. Linear takes equal steps. Cubic takes larger steps at first: in
  round i of n it prunes to `s_i = s (1 - (1 - i/n)^3)` (Zhu & Gupta 2017, arXiv 1710.01878).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from core.targets import MaskStructure, Target

Schedule = Literal["grid", "linear", "cubic"]


def unstructured_path(target: float, sparsities: Sequence[float]) -> list[Target]:
    """Return the sweep's sparsities up to and including `target`, ascending."""
    return [Target(s) for s in sorted(sparsities) if s <= target]


def scheduled_path(target: float, num_rounds: int, schedule: Schedule) -> list[Target]:
    """Return at most `num_rounds` sparsities that rise to `target`.

    The target itself is exact. The others are rounded to 6 decimals, and equal ones are left out.
    """
    shares = [i / num_rounds for i in range(1, num_rounds + 1)]
    if schedule == "cubic":
        shares = [1 - (1 - share) ** 3 for share in shares]
    path = sorted({round(target * share, 6) for share in shares[:-1]} | {target})
    return [Target(s) for s in path]


def structured_path(structure: MaskStructure) -> list[Target]:
    """Return the targets (M-1):M, ..., N:M at the same M."""
    return [
        Target.structured(f"{survivors}:{structure.group}")
        for survivors in range(structure.group - 1, structure.survivors - 1, -1)
    ]


def round_tokens(tokens: int, num_rounds: int, budget: str) -> list[int]:
    """Return the training tokens of each round.

    With the budget `round` each round has `tokens`. Otherwise the rounds share them equally, and
    the last round also gets the remainder.
    """
    if budget == "round":
        return [tokens] * num_rounds
    share = tokens // num_rounds
    return [share] * (num_rounds - 1) + [tokens - share * (num_rounds - 1)]
