"""A pruned model written as an ordinary Hugging Face directory."""

from __future__ import annotations

import copy
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from core.models.mask_files import MASKS_FILE, Masks, save_masks
from core.parallel import Ranks, whole

WEIGHTS_FILE = "model.safetensors"


def save_model(directory: Path, model: PreTrainedModel, masks: Masks, ranks: Ranks) -> None:
    """Gather the weights; rank 0 writes config, weights and masks (collective)."""
    state: dict[str, Tensor] = {}
    # Tied parameters are written once. Loading ties them again.
    for name, param in [*model.named_parameters(), *persistent_buffers(model)]:
        full = whole(param.detach())
        if ranks.rank == 0:
            state[name] = full.cpu().contiguous()
    if ranks.rank > 0:
        return
    directory.mkdir(parents=True, exist_ok=True)
    save_file(state, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    config = copy.deepcopy(model.config)
    config.dtype = next(iter(state.values())).dtype
    config.use_cache = True  # It is off for our forward passes, which never generate.
    config.save_pretrained(directory)
    if model.generation_config is not None:
        # save_pretrained refuses settings that many published models have.
        model.generation_config.to_json_file(directory / "generation_config.json")
    if masks:
        save_masks(directory / MASKS_FILE, masks)


def persistent_buffers(model: PreTrainedModel) -> list[tuple[str, Tensor]]:
    """Return the buffers that belong to a state dict."""
    kept = model.state_dict().keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]
