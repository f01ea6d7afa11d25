"""The sparsities on the path of an iterative branch.

- `grid`: the sweep's own sparsities, so one branch serves all cells.
- `linear` and `cubic`: a number of rounds from dense to one target, so each target has its own
  branch. Cubic is Zhu & Gupta 2017 (arXiv 1710.01878): `s_i = s (1 - (1 - i/n)^3)`, with larger
  steps at first.
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
    """Return `num_rounds` sparsities that rise to `target`; all others have 6 decimals."""
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
    """Return the training tokens of each round: `tokens`, or a share; the last takes the rest."""
    if budget == "round":
        return [tokens] * num_rounds
    share = tokens // num_rounds
    return [share] * (num_rounds - 1) + [tokens - share * (num_rounds - 1)]
