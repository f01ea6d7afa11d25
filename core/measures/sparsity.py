"""Measured sparsity, and the assertion that masks were kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from core.models.blocks import prunable_matrices
from core.parallel import local, whole


@dataclass(frozen=True)
class SparsityReport:
    """Pruned weights by count, per matrix; survivors that happen to be zero do not count."""

    pruned: dict[str, int]
    total: dict[str, int]

    @property
    def num_pruned(self) -> int:
        """Pruned weights of all matrices."""
        return sum(self.pruned.values())

    @property
    def num_prunable(self) -> int:
        """Weights of all prunable matrices."""
        return sum(self.total.values())

    @property
    def sparsity(self) -> float:
        """Fraction pruned over all matrices."""
        return self.num_pruned / self.num_prunable

    def of(self, name: str) -> float:
        """Fraction pruned of one matrix."""
        return self.pruned[name] / self.total[name]

    def worst(self, wanted: float) -> float:
        """The matrix sparsity farthest from the one wanted."""
        return max(map(self.of, self.total), key=lambda s: abs(s - wanted))


def measure(model: PreTrainedModel, masks: Mapping[str, Tensor]) -> SparsityReport:
    """Counts masked entries and asserts that each of them is exactly zero (collective)."""
    pruned, total = {}, {}
    for name, matrix in prunable_matrices(model).items():
        weight = whole(matrix.read())
        total[name] = weight.numel()
        mask = masks.get(name)
        pruned[name] = 0 if mask is None else int((~mask).sum())
        if mask is not None:
            assert not weight[~mask.to(weight.device)].any(), f"{name}: a pruned weight is not zero"
    return SparsityReport(pruned, total)


def assert_growing(earlier: Mapping[str, Tensor], later: Mapping[str, Tensor]) -> None:
    """Asserts that nothing an earlier mask pruned survives later."""
    for name, mask in earlier.items():
        assert not (later[name] & ~mask).any(), f"{name}: a pruned weight came back"


@torch.no_grad()
def pruned_are_zero(weight: Tensor, mask_shard: Tensor) -> bool:
    """Whether this rank's part of a weight is zero wherever its part of the mask is False."""
    return not bool(local(weight)[~mask_shard].any())
