"""Checkpoints of a half-done round of training, in safetensors and without pickle.

Every rank writes its rows of weights, of Adam moments and of ELSA's splitting, so any other number
of ranks can read them.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from core.parallel import local, rows_of
from core.ranks import Ranks
from core.training.splitting import Splitting

MOMENTS = ("exp_avg", "exp_avg_sq")
SplitTensors = dict[str, dict[nn.Parameter, Tensor]]
"""Parts of tensors by name and parameter, as `Splitting.tensors` returns them."""


def save_training(
    directory: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer | None,
    step: int,
    ranks: Ranks,
    splitting: Splitting | None = None,
) -> None:
    """Write this rank's rows of the weights that train, their moments, and the steps done.

    Without an optimizer there are no moments. Rank 0 writes the tensors that every rank holds in
    full. With a splitting its tensors and penalties are there too.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors, rows, split = {}, {}, split_tensors(splitting)
    shared = ranks.rank > 0
    for name, param in model.named_parameters():
        if not param.requires_grad or (shared and not isinstance(param, DTensor)):
            continue
        rows[name] = rows_of(param).start
        parts = {"weight": param.detach()} | beside(param, split)
        if optimizer is not None:
            parts |= {moment: optimizer.state[param][moment] for moment in MOMENTS}
        for kind, value in parts.items():
            tensors[f"{kind}/{name}"] = local(value).cpu().contiguous()
    metadata = {"step": str(step), "first_rows": json.dumps(rows)}
    if splitting is not None:
        metadata["splitting"] = json.dumps(splitting.numbers())
    file = directory / f"rank-{ranks.rank:05}-of-{ranks.size:05}.safetensors"
    save_file(tensors, file, metadata=metadata)


def split_tensors(splitting: Splitting | None) -> SplitTensors:
    """Return this rank's parts of the tensors of a splitting, none without one."""
    return {} if splitting is None else splitting.tensors()


def beside(param: nn.Parameter, split: SplitTensors) -> dict[str, Tensor]:
    """Return those of one parameter, by name."""
    return {kind: parts[param] for kind, parts in split.items() if param in parts}


def load_training_(
    directory: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer | None,
    splitting: Splitting | None = None,
) -> int:
    """Restore the output of `save_training` by any number of ranks; return the steps done."""
    paths = sorted(directory.glob("rank-*.safetensors"))
    assert paths, f"no checkpoint in {directory}"
    files = [safe_open(path, framework="pt") for path in paths]
    metadata = [file.metadata() for file in files]
    starts = [json.loads(m["first_rows"]) for m in metadata]
    step = int(metadata[0]["step"])
    if splitting is not None:
        splitting.restore(json.loads(metadata[0]["splitting"]))
    split = split_tensors(splitting)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if not param.requires_grad:
                continue
            tensors = {"weight": param} | beside(param, split)
            if optimizer is not None:
                tensors |= {moment: torch.zeros_like(param) for moment in MOMENTS}
                optimizer.state[param] = {
                    # Fused AdamW wants its counter where the parameter is.
                    "step": torch.tensor(float(step), device=local(param).device),
                    **{moment: tensors[moment] for moment in MOMENTS},
                }
            for kind, tensor in tensors.items():
                pieces = [
                    (start[name], file.get_slice(f"{kind}/{name}"))
                    for start, file in zip(starts, files)
                    if name in start
                ]
                copy_rows_(local(tensor), rows_of(param).start, pieces)
    return step


def copy_rows_(target: Tensor, first: int, pieces: list[tuple[int, object]]) -> None:
    """Fill `target`, the rows of a full tensor from `first` on, from (first row, piece) pairs."""
    if target.numel() == 0:
        return
    filled = 0
    for start, piece in pieces:
        count = piece.get_shape()[0]  # pyright: ignore[reportAttributeAccessIssue]
        low, high = max(first, start), min(first + len(target), start + count)
        if low < high:
            rows = piece[low - start : high - start]  # pyright: ignore[reportIndexIssue]
            target[low - first : high - first].copy_(rows)
            filled += high - low
    assert filled == len(target), "rows are missing: the checkpoint lacks the file of a rank"
