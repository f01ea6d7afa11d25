"""Measured sparsity, and checks that masks were kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.models.blocks import have_routers, prunable_blocks
from core.models.residence import residence_of
from core.parallel import local, whole


@dataclass(frozen=True)
class SparsityReport:
    """Numbers of pruned weights in each matrix; survivors that happen to be zero do not count."""

    pruned: dict[str, int]
    total: dict[str, int]

    @property
    def num_pruned(self) -> int:
        """Return the number of pruned weights of all matrices."""
        return sum(self.pruned.values())

    @property
    def num_prunable(self) -> int:
        """Return the number of weights of all prunable matrices."""
        return sum(self.total.values())

    @property
    def sparsity(self) -> float:
        """Return the fraction pruned over all matrices."""
        return self.num_pruned / self.num_prunable

    def of(self, name: str) -> float:
        """Return the fraction pruned of one matrix."""
        return self.pruned[name] / self.total[name]

    def worst(self, wanted: float) -> float:
        """Return the sparsity of the matrix that is farthest from the wanted one."""
        return max(map(self.of, self.total), key=lambda s: abs(s - wanted))


def measure(model: PreTrainedModel, masks: Mapping[str, Tensor]) -> SparsityReport:
    """Count masked entries, and assert that each of them is exactly zero (collective)."""
    pruned, total = {}, {}
    place = residence_of(model)
    for block in prunable_blocks(model, have_routers(model, masks)):
        with place.changing(block.module):
            for name, matrix in block.matrices.items():
                weight, mask = whole(matrix.read()), masks.get(name)
                total[name] = weight.numel()
                pruned[name] = 0 if mask is None else num_zeros(name, weight, mask)
    return SparsityReport(pruned, total)


def num_zeros(name: str, weight: Tensor, mask: Tensor) -> int:
    """Return the number of masked entries of a full weight; assert that each of them is zero."""
    assert not weight[~mask.to(weight.device)].any(), f"{name}: a pruned weight is not zero"
    return int((~mask).sum())


def assert_growing(earlier: Mapping[str, Tensor], later: Mapping[str, Tensor]) -> None:
    """Assert that no weight that an earlier mask pruned survives later."""
    for name, mask in earlier.items():
        back = later[name] & ~mask.to(later[name].device)
        assert not back.any(), f"{name}: a pruned weight came back"


@torch.no_grad()
def pruned_are_zero(weight: Tensor, mask_shard: Tensor) -> bool:
    """Return True if this rank's part of a weight is zero wherever the mask is False."""
    return not bool(local(weight)[~mask_shard].any())
