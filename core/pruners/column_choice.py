"""Choice of the mask of some columns in SparseGPT's pass: whole blocks, or one N:M group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.pruners.masks import block_quotas, group_survivors, lowest_of_matrices
from core.ranks import Ranks
from core.targets import MaskStructure, Target

ChooseMask = Callable[[Tensor, int], Tensor]
"""(scores [cols, rows] of some columns, the first of them) -> which weights survive."""


def unstructured_choice(
    rows: list[int],
    ends: list[int],
    targets: Sequence[Target],
    masks: Sequence[Tensor] | None,
    ranks: Ranks,
) -> ChooseMask:
    """Return a choice for whole blocks: each matrix prunes its quota of lowest scores.

    Quotas are those of whole matrices, of which `ranks` solve some rows each.
    """
    by_matrix = [
        block_quotas(r, ends[-1], ends, targets[i].sparsity, masks[i] if masks else None, ranks)
        for i, r in enumerate(rows)
    ]
    quotas = dict(zip([0, *ends], zip(*by_matrix)))

    def choose(scores: Tensor, start: int) -> Tensor:
        parts = scores.split(rows, dim=1)
        return ~torch.cat(lowest_of_matrices(parts, quotas[start], ranks), dim=1)

    return choose


def structured_choice(structure: MaskStructure) -> ChooseMask:
    """Return a choice for one group of M columns: the N highest scores of each row survive."""
    count = structure.group - structure.survivors

    return lambda scores, start: group_survivors(scores, count)
