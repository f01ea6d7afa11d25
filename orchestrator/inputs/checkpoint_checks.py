"""Checks of the weights of a model against its config, by the headers of its files alone.

Names and shapes on disk meet those in memory by transformers' own rules. Each check refuses one
kind of checkpoint with one message.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from core.checks import require
from core.models.anatomy import anatomy_of
from core.models.checkpoint_files import StoredTensor, read_header
from core.models.configs import named_errors, quiet, read_config
from core.models.conversion import origins, tied_names
from core.models.loading import generation_config
from core.models.sources import ModelSource, is_stored, weight_paths, weights_dir
from core.models.weight_files import meta_model
from orchestrator.inputs.weight_values import require_finite, warn_if_sparse

logger = logging.getLogger(__name__)

FLOATS = ("F64", "F32", "F16", "BF16")
WRAPPER = re.compile(
    r"(?:^|\.)(module|_orig_mod|_fsdp_wrapped_module|_forward_module|_checkpoint_wrapped_module)\."
    r"|^(base_model)\.model\."
)
"""Parts of names that wrappers of a model add: DDP, compile, FSDP, DeepSpeed, PEFT."""
UNMERGED = re.compile(r"\.(lora_\w+|base_layer|modules_to_save)\.")
PACKED = re.compile(r"\.(qweight|qzeros|g_idx|weight_packed|SCB|weight\.(absmax|quant_\w+))($|\.)")
"""Parts of names of quantized weights: GPTQ, AWQ, compressed-tensors, bitsandbytes."""


@dataclass
class Match:
    """The tensors in the files of a model beside the weights that it has by its config."""

    stored: dict[str, StoredTensor]
    """Tensors in the files, by their names there."""
    wanted: dict[str, tuple[int, ...]]
    """Shapes of all weights, by their names in memory."""
    keys: dict[str, str] = field(default_factory=dict)
    """The name in the files of each weight that has one, by its name in memory."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes in the files, by names in memory."""
    missing: list[str] = field(default_factory=list)
    """Weights without a tensor in the files."""
    unread: list[str] = field(default_factory=list)
    """Tensors in the files that no weight is made of."""


def require_fitting_weights(source: ModelSource, keeps_zeros: bool = False) -> None:
    """Refuse weights that do not fit the config; say nothing of weights that are not here yet.

    Args:
        source: the model.
        keeps_zeros: True if zeros that it has already are kept, so that nobody need be warned.

    Raises:
        BadInputError: one line naming the model, the weight and the remedy.
    """
    if not is_stored(source):
        return
    name, directory, config = source.name, weights_dir(source), read_config(source)
    with named_errors(name, "generation_config.json"), quiet():
        generation_config(directory, config)
    stored = stored_tensors(name, directory)
    with quiet():
        model = meta_model(config, torch.float32)
    match = match_weights(model, stored)
    require_plain_names(name, match)
    anatomy = anatomy_of(model)
    part = anatomy.path.rpartition(".")[2]
    block = re.compile(rf"(?:^|\.){part}\.(\d+)\.")
    require_all_blocks(name, match, block, len(anatomy.blocks))
    require_nothing_missing(name, match)
    require_shapes(name, match)
    require_float_dtypes(name, match, dict(model.named_parameters()))
    require_all_read(name, match, block)
    require_finite(name, match.stored)
    if not keeps_zeros:
        warn_if_sparse(name, model, match.keys, match.stored)


def stored_tensors(name: str, directory: Path) -> dict[str, StoredTensor]:
    """Return all tensors in the files of a model, by the headers."""
    found: dict[str, StoredTensor] = {}
    for path in weight_paths(directory, name):
        if path.suffix == ".safetensors":
            found |= read_header(name, path)
    return found


def match_weights(model: PreTrainedModel, stored: dict[str, StoredTensor]) -> Match:
    """Return which tensor in the files is which weight of a model on meta."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    match = Match(stored, wanted, {key: key for key in stored if key in wanted})
    match.shapes = {key: stored[key].shape for key in match.keys}
    tied = [{source, *others} for source, others in tied_names(model).items()]
    match.missing, match.unread = unmatched(match, tied), sorted(stored.keys() - wanted.keys())
    if match.missing or match.unread:
        # transformers takes most of a second to compile its rules; most models need none.
        rename(model, match)
        match.missing = unmatched(match, tied)
    ignored = model._keys_to_ignore_on_load_missing or ()
    match.missing = [
        name for name in match.missing if not any(re.search(each, name) for each in ignored)
    ]
    return match


def rename(model: PreTrainedModel, match: Match) -> None:
    """Match names by transformers' rules for the model."""

    def meta(key: str) -> torch.Tensor:
        return torch.empty(match.stored[key].shape, device="meta")

    match.keys, match.shapes, read = {}, {}, set[str]()
    for origin in origins(model, match.stored)[0]:
        keys = [key for _, key in origin.keys]
        for name, tensor in origin.convert(model, meta).items():
            match.keys[name], match.shapes[name] = keys[0], tuple(tensor.shape)
        read.update(keys)
    match.unread = sorted(match.stored.keys() - read)


def unmatched(match: Match, tied: list[set[str]]) -> list[str]:
    """Return the weights that no tensor is, nor one of a weight that they are tied to."""
    found = match.shapes.keys() | {
        name for names in tied if names & match.shapes.keys() for name in names
    }
    return [name for name in match.wanted if name not in found]


def require_plain_names(name: str, match: Match) -> None:
    """Refuse names of a wrapper, of an adapter that is not merged, and of packed weights."""
    for key in match.unread:
        remedy = f"holds {key}, a part of an adapter; merge the adapter first (merge_and_unload)"
        require(not UNMERGED.search(key), "models", name, remedy)
        remedy = f"its weights are quantized ({key}); give the model they were made from"
        require(not PACKED.search(key), "models", name, remedy)
        found = WRAPPER.search(key)
        told = next(filter(None, found.groups())) if found else ""
        remedy = (
            f"has a weight named {key}: it was saved from a wrapper ({told}); save the model "
            "inside the wrapper with save_pretrained"
        )
        require(found is None or not match.missing, "models", name, remedy)


def require_all_blocks(name: str, match: Match, block: re.Pattern[str], num_blocks: int) -> None:
    """Refuse files with more or fewer decoder blocks than the config says.

    `block` finds the number of a weight's block in its name.
    """
    found = [int(place[1]) for place in map(block.search, match.stored) if place]
    count = max(found, default=-1) + 1
    remedy = (
        f"has weights of {count} blocks, but its config.json says num_hidden_layers {num_blocks}; "
        "copy config and weights of the same model"
    )
    require(count in (0, num_blocks), "models", name, remedy)


def require_nothing_missing(name: str, match: Match) -> None:
    """Refuse files that lack a weight, which would otherwise start out random."""
    if match.missing:
        unread = f" (they hold {match.unread[0]} instead)" if match.unread else ""
        count = len(match.missing)
        told = f"{count} weights are missing in its files, first {match.missing[0]}{unread}"
        require(False, "models", name, f"{told}; save the model again with save_pretrained")


def require_shapes(name: str, match: Match) -> None:
    """Refuse a weight whose shape in the files is not that of the config."""
    for weight, shape in match.shapes.items():
        wanted = match.wanted[weight]
        hint = " (vocab_size)" if shape[1:] == wanted[1:] and "embed" in weight else ""
        remedy = (
            f"{weight} is {list(shape)} in its files, but {list(wanted)} by its config.json{hint}; "
            "copy config and weights of the same model"
        )
        require(shape == wanted, "models", name, remedy)


def require_float_dtypes(
    name: str, match: Match, parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """Refuse parameters that are stored as whole numbers or in 8 bits."""
    for weight, key in match.keys.items():
        dtype = match.stored[key].dtype
        remedy = f"{key} is stored as {dtype} (quantized); give the model it was made from"
        require(weight not in parameters or dtype in FLOATS, "models", name, remedy)


def require_all_read(name: str, match: Match, block: re.Pattern[str]) -> None:
    """Refuse weights of blocks that nothing reads; warn of other parameters."""
    extra = [key for key in match.unread if key.endswith((".weight", ".bias"))]
    inside = [key for key in extra if block.search(key)]
    if inside:
        told = f"{len(inside)} weights of its blocks are read by nothing, first {inside[0]}"
        remedy = f"{told}; copy config and weights of the same model"
        require(False, "models", name, remedy)
    if extra:
        told = "%s: %d weights in its files are read by nothing, first %s"
        logger.warning(told, name, len(extra), extra[0])
