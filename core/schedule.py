"""The sparsities that an iterative branch passes through.

`grid`: the sweep's own sparsities, so that one branch serves all cells. `linear` and `cubic`: a
number of rounds from dense to one target, each target on a branch of its own; cubic is Zhu & Gupta
2017 (arXiv 1710.01878), `s_i = s (1 - (1 - i/n)^3)`, early steps larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from core.targets import MaskStructure, Target

Schedule = Literal["grid", "linear", "cubic"]


def unstructured_path(target: float, sparsities: Sequence[float]) -> list[Target]:
    """The sweep's sparsities up to and including `target`, ascending."""
    return [Target(s) for s in sorted(sparsities) if s <= target]


def scheduled_path(target: float, num_rounds: int, schedule: Schedule) -> list[Target]:
    """`num_rounds` sparsities from dense to `target`, rounded to 6 decimals, ending on it."""
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
    """Training tokens of each round: `tokens` each, or split with the remainder in the last."""
    if budget == "round":
        return [tokens] * num_rounds
    share = tokens // num_rounds
    return [share] * (num_rounds - 1) + [tokens - share * (num_rounds - 1)]
