"""Names and shapes of weights in files against those in memory, by transformers' own rules.

Most weights have one tensor in a file, often under another name. Some are made of several tensors
(the experts of a mixture), or several of one tensor (a fused q, k and v). This is the only file
that uses transformers' private modules for it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Origin:
    """The tensors in files that make one weight, or a few weights together."""

    first: str
    """Name in memory of the weight, or of the first of them."""
    keys: list[tuple[str, str]] = field(default_factory=list)
    """Names in the files, each after the pattern that matched it."""
    converter: Any = None
    """transformers' converter; None if the weight is one tensor as it is."""

    def convert(self, model: PreTrainedModel, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Return the weights by their names in memory, made of the tensors that `read` returns."""
        if self.converter is None:
            return {self.first: read(self.keys[0][1])}
        converter = deepcopy(self.converter)
        for pattern, key in self.keys:
            converter.add_tensor(self.first, key, pattern, read(key))
        made = converter.convert(self.first, model=model, config=model.config)
        return {name: t[0] if isinstance(t, list) else t for name, t in made.items()}


def origins(model: PreTrainedModel, keys: Iterable[str]) -> tuple[list[Origin], list[Any]]:
    """Return the origins of a model's weights among the tensors of its files.

    The second list has the rules of transformers that were used.
    """
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    known, prefix = model.state_dict(), model.base_model_prefix
    found: dict[str, Origin] = {}
    # Some rules depend on the order, which is that of `from_pretrained`.
    for key in sorted(keys, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:
            name, pattern = rename_source_key(key, [], [], prefix, known)
        if name in known:
            origin = found.setdefault(name, Origin(name, converter=by_pattern.get(pattern or "")))
            origin.keys.append((pattern or key, key))
    return list(found.values()), [rule for rule in rules if rule.was_used()]


@dataclass(frozen=True)
class Part:
    """Weights in memory that make tensors of a file, none of which needs another weight."""

    names: tuple[str, ...]
    """Names in memory."""
    layout: dict[str, Tensor]
    """Tensors on meta by their names in the file."""
    is_converted: bool = False
    """False if it is one weight as it is, under whatever name."""

    def stored(self, model: PreTrainedModel, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the file, made of the full weights by their names in memory."""
        if self.is_converted:
            return revert_weight_conversion(model, weights)
        return dict(zip(self.layout, weights.values(), strict=True))


def file_parts(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> list[Part]:
    """Return the parts in which to write a model, in the names that other tools expect.

    Args:
        model: the causal LM.
        weights: all that is to be written, by name in memory. Only shapes and dtypes count.
    """
    metas = {name: on_meta(weight) for name, weight in weights.items()}
    layout = revert_weight_conversion(model, metas)
    parts = []
    for origin in origins(model, layout)[0]:
        names = tuple(origin.convert(model, layout.__getitem__))
        made = {key: on_meta(layout[key]) for _, key in origin.keys}
        parts.append(Part(names, made, origin.converter is not None))
    written = sorted(name for part in parts for name in part.names)
    is_whole = written == sorted(metas) and all(
        part.stored(model, {name: metas[name] for name in part.names}).keys() == part.layout.keys()
        for part in parts
    )
    if is_whole:
        return parts
    kind = type(model).__name__
    logger.warning("%s is saved under its names in memory: no rule reverts them", kind)
    return [Part((name,), {name: meta}) for name, meta in metas.items()]


def on_meta(tensor: Tensor) -> Tensor:
    """Return a tensor of the same shape and dtype without memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def tied_names(model: PreTrainedModel) -> dict[str, list[str]]:
    """Return the names that share the weight of each source, by the model's config."""
    shared: dict[str, list[str]] = {}
    for name, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        shared.setdefault(source, []).append(name)
    return shared


def asked_dtype(model: PreTrainedModel) -> torch.dtype:
    """Return the dtype that a model was made in; a few of its weights may have another."""
    asked = model.config.dtype
    return asked if isinstance(asked, torch.dtype) else model.dtype


def keep_dtypes_(model: PreTrainedModel) -> dict[str, torch.dtype]:
    """Return the dtype in which `from_pretrained` loads each weight and buffer, by name.

    It is that of the model on meta, but a few modules of some families stay in float32. They get
    that dtype here.
    """
    plan: Mapping[str, torch.dtype] = model._get_dtype_plan(asked_dtype(model))
    patterns = {re.compile(glob.replace("*", ".*")): dtype for glob, dtype in plan.items()}
    dtypes = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        dtypes[name] = next((d for p, d in patterns.items() if p.search(name)), tensor.dtype)
        tensor.data = tensor.data.to(dtypes[name])
    return dtypes


def computed_buffers(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the buffers that are in no file (such as rotary frequencies), computed on the CPU.

    The model computes them as it does after `from_pretrained`. It stays as it is otherwise, with
    its weights on the meta device.
    """
    names = [name for name, _ in model.named_non_persistent_buffers(remove_duplicate=False)]
    places = [(model.get_submodule(n.rpartition(".")[0]), n.rpartition(".")[2]) for n in names]
    before = [owner._buffers[leaf] for owner, leaf in places]
    for (owner, leaf), buffer in zip(places, before, strict=True):
        assert buffer is not None
        owner._buffers[leaf] = torch.empty_like(buffer, device="cpu")
    # transformers initialises what has no such mark.
    for tensor in model.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True
    for module in model.modules():
        module._is_hf_initialized = False  # pyright: ignore[reportArgumentType]
    model.initialize_weights()
    made = {n: owner._buffers[leaf] for n, (owner, leaf) in zip(names, places, strict=True)}
    for (owner, leaf), buffer in zip(places, before, strict=True):
        owner._buffers[leaf] = buffer
    return {name: buffer for name, buffer in made.items() if buffer is not None}
