"""Loads causal language models; refuses in one line what cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel

from core.checks import BadInputError, require
from core.hub.identity import first_line
from core.models.configs import as_source, quiet, read_config
from core.models.sources import ModelSource, weights_dir
from core.models.weight_files import WeightFiles, meta_model


def load_model(source: ModelSource | str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load weights in `dtype` on the CPU, for evaluation (no dropout, no key-value cache).

    Raises:
        ValueError: if the checkpoint lacks weights, which would otherwise start out random.
    """
    files = open_model(source, dtype)
    files.fill_(files.model, "", torch.device("cpu"))
    return files.model


def open_model(source: ModelSource | str | Path, dtype: torch.dtype) -> WeightFiles:
    """Return the way to read a model's weights; its `.model` has buffers, but no memory for these.

    Raises:
        ValueError: as `load_model` does.
    """
    source = as_source(source)
    config = read_config(source)
    config.use_cache = False
    try:
        with quiet():
            directory = weights_dir(source)
            model = meta_model(config, dtype)
            model.generation_config = generation_config(directory, config)
            files = WeightFiles(directory, model)
            files.fill_buffers_(model, "", torch.device("cpu"))
            absent = files.absent
    except (OSError, SafetensorError) as error:
        remedy = f"its weights cannot be loaded: {first_line(error)}"
        raise BadInputError(f"--models {source.name}: {remedy}") from error
    remedy = f"{len(absent)} weights are missing or misshapen, first {absent[:1]}; save it anew"
    require(not absent, "models", source.name, remedy)
    return files


def generation_config(directory: Path, config: PreTrainedConfig) -> GenerationConfig:
    """Return the settings for generating text that are stored with the weights."""
    if (directory / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(directory)
    if (directory / "config.json").is_file():
        name = "config.json"
        found = GenerationConfig.from_pretrained(directory, name, _from_model_config=True)
        assert isinstance(found, GenerationConfig)
        return found
    # A conversion to safetensors on the hub may hold the weights alone.
    return GenerationConfig.from_model_config(config)


def sample_model(source: ModelSource, num_blocks: int, dtype: torch.dtype) -> PreTrainedModel:
    """Return the first blocks of a model with random weights, to time them for an estimate."""
    config = read_config(source)
    config.use_cache = False
    shorten_(config.get_text_config(decoder=True), num_blocks)
    with quiet():
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def shorten_(config: PreTrainedConfig, num_blocks: int) -> None:
    """Let a config have fewer blocks, and each list that states a value for each block too."""
    before = config.num_hidden_layers
    config.num_hidden_layers = after = min(num_blocks, before)
    for key, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == before:
            setattr(config, key, value[:after])
