"""Weights of 2:4 models as the sparse tensor cores of a GPU take them."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from core.models.blocks import prunable_matrices


def with_sparse_kernels(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a 2:4 model whose prunable matrices run on sparse kernels.

    Raises:
        RuntimeError: the device, dtype, shape or layout has no such kernel, or a matrix is not 2:4.
    """
    sparse = copy.deepcopy(model)
    for matrix in prunable_matrices(sparse).values():
        if matrix.transposed:
            raise RuntimeError(f"{matrix.name} is stored as [in, out]")
        packed = torch.sparse.to_sparse_semi_structured(matrix.parameter.detach())
        matrix.module.weight = nn.Parameter(packed, requires_grad=False)
    return sparse
