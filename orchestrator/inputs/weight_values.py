"""Values of stored weights, read where that is cheap: NaN, infinity, and zeros there already.

A small model is read whole. Of a large one, its norms and biases and a few rows of some matrices
are read, since its start must not take minutes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from core.checks import require
from core.models.blocks import prunable_blocks
from core.models.checkpoint_files import StoredTensor

logger = logging.getLogger(__name__)

WHOLE_BYTES = 300_000_000
"""Bytes of files up to which every weight is read."""
SMALL_SHAPE = 1
"""Dimensions of the tensors of a large model that are read: norms and biases."""
SAMPLED_PLACES, SAMPLED_ROWS = 4, 4
"""Places in a matrix where zeros are counted, and rows at each of them."""
SPARSE = 0.05
"""Share of zeros from which a checkpoint counts as sparse; dense ones have next to none."""


def require_finite(name: str, stored: Mapping[str, StoredTensor]) -> None:
    """Refuse weights that are NaN or infinite, as far as they are read."""
    is_small = sum(file.stat().st_size for file in files_of(stored)) <= WHOLE_BYTES
    keys = [k for k, each in stored.items() if is_small or len(each.shape) <= SMALL_SHAPE]
    for key, opened in opened_tensors(stored, keys):
        tensor = opened.get_tensor(key)
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        low, high = (each.item() for each in torch.aminmax(tensor))
        told = f"{key} holds NaN" if low != low else f"{key} holds infinite values"
        is_finite = torch.isfinite(torch.tensor([low, high])).all().item()
        remedy = f"{told}; give a checkpoint from before training went wrong"
        require(bool(is_finite), "models", name, remedy)


def warn_if_sparse(
    name: str, model: PreTrainedModel, keys: Mapping[str, str], stored: Mapping[str, StoredTensor]
) -> None:
    """Warn of a model that is sparse already: its curve does not start at a dense model.

    Args:
        name: the model.
        model: the model, on meta.
        keys: names in the files of its weights, by their names in memory.
        stored: tensors in the files.
    """
    share = sampled_zeros(model, keys, stored)
    if share >= SPARSE:
        logger.warning(
            "--models %s: about %.0f %% of its weights to prune are zero already. Methods that "
            "update weights fill them again; --prune.keep-zeros keeps them.",
            name,
            100 * share,
        )


def sampled_zeros(
    model: PreTrainedModel, keys: Mapping[str, str], stored: Mapping[str, StoredTensor]
) -> float:
    """Return the share of zeros in some rows of the first, middle and last block's matrices."""
    blocks = prunable_blocks(model)
    chosen = {index: blocks[index] for index in (0, len(blocks) // 2, len(blocks) - 1)}
    names = [m.parameter_name for block in chosen.values() for m in block.matrices.values()]
    zeros = count = 0
    for key, opened in opened_tensors(stored, [keys[name] for name in names]):
        stored_rows, (height, *_) = opened.get_slice(key), stored[key].shape
        for place in range(SAMPLED_PLACES):
            start = place * height // SAMPLED_PLACES
            rows = stored_rows[start : start + SAMPLED_ROWS]
            zeros += rows.numel() - int(rows.count_nonzero())
            count += rows.numel()
    return zeros / count


def files_of(stored: Mapping[str, StoredTensor]) -> set[Path]:
    """Return the files of tensors."""
    return {each.file for each in stored.values()}


def opened_tensors(
    stored: Mapping[str, StoredTensor], keys: list[str]
) -> Iterator[tuple[str, Any]]:
    """Yield each tensor's name with its file, opened once for all of its tensors."""
    for file in sorted(files_of({key: stored[key] for key in keys})):
        with safe_open(file, framework="pt") as opened:
            for key in keys:
                if stored[key].file == file:
                    yield key, opened
