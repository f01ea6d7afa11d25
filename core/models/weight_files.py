"""A model directory read by slices: any weight, or any rows of it, without loading the model.

    model = meta_model(config, torch.bfloat16)              # no memory for weights
    files = WeightFiles(directory, model)                   # reads headers only
    files.fill_(block, "model.layers.3", torch.device("cuda"))
    rows = files.read("lm_head.weight", slice(0, 1000))

Weights equal those of `from_pretrained` bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from core.models.conversion import (
    Origin,
    asked_dtype,
    computed_buffers,
    keep_dtypes_,
    origins,
    tied_names,
)
from core.models.sources import weight_paths

logger = logging.getLogger(__name__)

COMPARED_ROWS = 4096
"""Rows of two stored copies of one weight that are compared at a time."""


def meta_model(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return a model without memory for its weights, for evaluation."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def load_whole(
    directory: Path, config: PreTrainedConfig, dtype: torch.dtype
) -> tuple[PreTrainedModel, list[str]]:
    """Return the model as `from_pretrained` loads it, and what its files lack."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        directory,
        config=config,
        generation_config=GenerationConfig(),  # The files may hold the weights alone.
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # It then names them instead of raising.
        output_loading_info=True,
    )
    model, info = loaded
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    return model.eval(), absent


class WeightFiles:
    """Reads weights of a model on the meta device from the safetensors of its directory.

    Names are those in memory, as in `model.state_dict()`. Dtypes are the model's. What no rule of
    transformers maps to a weight makes it load the whole model, and it says so in the log.
    """

    def __init__(self, directory: Path, model: PreTrainedModel) -> None:
        self.directory, self.model = directory, model
        self.bytes_read = 0
        """Bytes of tensors read from files so far."""
        self._opened: dict[Path, Any] | None = None
        self._made: tuple[Origin | None, dict[str, Tensor]] = None, {}
        files = [path for path in weight_paths(directory) if path.suffix == ".safetensors"]
        self._file_of: dict[str, Path] = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                self._file_of |= dict.fromkeys(opened.keys(), file)
        self._origins: dict[str, tuple[Origin, str]] = {}
        """The origin of each weight, and the name that the origin knows it by."""
        self._shapes: dict[str, torch.Size] = {}
        found, rules = origins(model, self._file_of)
        # Saving reverts them.
        model._weight_conversions = rules  # pyright: ignore[reportArgumentType]
        with self.opened():
            for origin in found:
                for name, meta in origin.convert(model, self._meta).items():
                    self._origins[name], self._shapes[name] = (origin, name), meta.shape
        self._dtypes = keep_dtypes_(model)
        self.unmapped: list[str] = []
        """Weights and buffers that the files do not have, or in another shape."""
        self._tie()
        self.unmapped = sorted(
            name
            for name, tensor in model.state_dict().items()
            if name not in self._origins or self._shapes[name] != tensor.shape
        )
        if self.unmapped:
            told = f"{len(self.unmapped)} weights ({self.unmapped[0]}, ...) are not as in memory"
            logger.warning("%s: %s; the whole model is loaded", directory, told)
        # Now, while no weight is real that could be initialised again.
        self._computed = {} if self.unmapped else computed_buffers(model)

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """Return a weight or persistent buffer, or the given rows of its first dimension.

        The tensor has memory of its own. Only these rows are read where one tensor in a file is
        the weight; else all that it is made of.
        """
        if self.unmapped:
            tensor = self._whole[name]
            return (tensor if rows is None else tensor[rows]).clone()
        origin, known_as = self._origins[name]
        dtype = self._dtypes[origin.first]
        with self.opened():
            if origin.converter is None:
                return self._slice(origin.keys[0][1], rows).to(dtype, copy=True)
            if self._made[0] is not origin:
                made = origin.convert(self.model, lambda key: self._slice(key).to(dtype))
                self._made = origin, made
            made = self._made[1][known_as]
            return (made if rows is None else made[rows]).clone()

    @torch.no_grad()
    def fill_(self, module: nn.Module, prefix: str, device: torch.device) -> None:
        """Give a module of the model real weights and buffers on a device.

        Weights that the module has twice stay tied.

        Args:
            module: the model, or a module of it (a block, the embeddings, the head).
            prefix: its path in the model, such as `model.layers.3`; "" for the model.
            device: where weights and buffers go.
        """
        filled: dict[int, nn.Parameter] = {}
        with self.opened():
            for path, part in module.named_modules(prefix=prefix):
                dot = f"{path}." if path else ""
                for leaf, old in part._parameters.items():
                    if old is None:
                        continue
                    if id(old) not in filled:
                        new = self.read(dot + leaf).to(device)
                        filled[id(old)] = nn.Parameter(new, new.is_floating_point())
                    part._parameters[leaf] = filled[id(old)]
            self.fill_buffers_(module, prefix, device)

    def fill_buffers_(self, module: nn.Module, prefix: str, device: torch.device) -> None:
        """Give a module real buffers alone: from the files, or computed where they are in none."""
        with self.opened():
            for path, part in module.named_modules(prefix=prefix):
                for leaf in [leaf for leaf, buffer in part._buffers.items() if buffer is not None]:
                    name = f"{path}.{leaf}" if path else leaf
                    computed = self._computed.get(name)
                    value = self.read(name) if computed is None else computed.clone()
                    part._buffers[leaf] = value.to(device)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keep files open from one read to the next. At the end all are closed."""
        if self._opened is not None:
            yield
            return
        self._opened = {}
        try:
            yield
        finally:
            self._opened, self._made = None, (None, {})

    def _stored(self, key: str) -> Any:
        """Return the file of a tensor, opened."""
        assert self._opened is not None
        file = self._file_of[key]
        if file not in self._opened:
            self._opened[file] = safe_open(file, framework="pt")
        return self._opened[file]

    def _slice(self, key: str, rows: slice | None = None) -> Tensor:
        """Return rows of a tensor in a file, mapped into memory."""
        if rows is None:
            part = self._stored(key).get_tensor(key)
        else:
            stored = self._stored(key).get_slice(key)
            start, stop, _ = rows.indices(stored.get_shape()[0])
            # safetensors refuses an empty slice.
            part = stored[start : max(stop, start + 1)][: stop - start]
        self.bytes_read += part.nbytes
        return part

    def _meta(self, key: str) -> Tensor:
        """Return a tensor of the shape that a file's header states."""
        return torch.empty(self._stored(key).get_slice(key).get_shape(), device="meta")

    def _tie(self) -> None:
        """Let tied names read the copy that is stored.

        As `from_pretrained` does: where the files have two copies that differ, they are not tied.
        """
        for source, others in tied_names(self.model).items():
            names = [source, *others]
            stored = next((name for name in names if name in self._origins), None)
            if stored is None:
                continue
            for name in names:
                if name in self._origins and not self._are_equal(stored, name):
                    owner, _, leaf = name.rpartition(".")
                    old = self.model.get_parameter(name)
                    new = nn.Parameter(torch.empty_like(old), old.requires_grad)
                    setattr(self.model.get_submodule(owner), leaf, new)
                    self.model.all_tied_weights_keys.pop(name, None)
                else:
                    self._origins[name] = self._origins[stored]
                    self._shapes[name] = self._shapes[stored]

    def _are_equal(self, one: str, other: str) -> bool:
        """Return True if two names have equal weights in the files."""
        if self._origins[one] == self._origins[other]:
            return True
        if self._shapes[one] != self._shapes[other]:
            return False
        with self.opened():
            for start in range(0, self._shapes[one][0], COMPARED_ROWS):
                rows = slice(start, start + COMPARED_ROWS)
                if not torch.equal(self.read(one, rows), self.read(other, rows)):
                    return False
        return True

    @property
    def absent(self) -> list[str]:
        """Names that `from_pretrained` misses in the files too, or finds misshapen."""
        return self._loaded[1] if self.unmapped else []

    @cached_property
    def _whole(self) -> dict[str, Tensor]:
        """All weights and buffers of the model loaded whole."""
        model = self._loaded[0]
        return {**model.state_dict(), **dict(model.named_buffers(remove_duplicate=False))}

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, list[str]]:
        return load_whole(self.directory, self.model.config, asked_dtype(self.model))
