"""A pruned model written as an ordinary Hugging Face directory."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from core.models.conversion import file_parts
from core.models.mask_files import MASKS_FILE, Masks, save_masks
from core.models.weight_writer import MAX_SHARD_SIZE, WeightWriter
from core.parallel import whole
from core.ranks import Ranks


def save_model(
    directory: Path,
    model: PreTrainedModel,
    masks: Masks,
    ranks: Ranks,
    max_shard_size: str | int = MAX_SHARD_SIZE,
) -> None:
    """Write config, weights and masks on rank 0 (collective).

    A rank holds one gathered weight at a time, or the few that make tensors of a file together.
    """
    # Tied parameters are written once. Loading ties them again.
    weights = dict([*model.named_parameters(), *persistent_buffers(model)])
    save_weights(directory, model, weights, ranks, max_shard_size)
    if ranks.rank > 0:
        return
    save_settings(directory, model)
    if masks:
        save_masks(directory / MASKS_FILE, masks)


def save_settings(directory: Path, model: PreTrainedModel) -> None:
    """Write the config of a model, and its settings for generating text."""
    config = copy.deepcopy(model.config)
    config.dtype = next(model.parameters()).dtype
    config.use_cache = True  # It is off for our forward passes, which never generate.
    config.save_pretrained(directory)
    if model.generation_config is not None:
        # save_pretrained refuses settings that many published models have.
        model.generation_config.to_json_file(directory / "generation_config.json")


def save_weights(
    directory: Path,
    model: PreTrainedModel,
    weights: dict[str, Tensor],
    ranks: Ranks,
    max_shard_size: str | int,
) -> None:
    """Gather weights one by one; rank 0 writes each before it gathers the next (collective)."""
    parts = file_parts(model, weights)
    layout = {key: meta for part in parts for key, meta in part.layout.items()}
    error: OSError | None = None
    with ExitStack() as stack:
        writer = None
        if ranks.rank == 0:
            directory.mkdir(parents=True, exist_ok=True)
            writer = stack.enter_context(WeightWriter(directory, layout, max_shard_size))
        for part in parts:
            full = {name: whole(weights[name].detach()) for name in part.names}
            if writer is None or error is not None:
                continue
            try:
                for key, tensor in part.stored(model, full).items():
                    writer.write(key, tensor)
            except OSError as caught:
                # The other ranks gather all weights, and would wait for this one.
                error = caught
        if error is not None:
            raise error


def persistent_buffers(model: PreTrainedModel) -> list[tuple[str, Tensor]]:
    """Return the buffers that belong to a state dict."""
    kept = model.state_dict().keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
