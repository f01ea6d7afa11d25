"""Loads configs, causal language models and tokenizers; refuses what cannot be pruned here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from core.checks import BadInputError, require
from core.hub.identity import LFS_POINTER, first_line
from core.models.checkpoint_files import json_object, no_content
from core.models.config_checks import (
    require_dtype_name,
    require_heads,
    require_known_family,
    require_model_type,
    require_numbers,
    require_sizes,
    require_unquantized,
)
from core.models.sources import (
    TOKENIZER_FILES,
    ModelSource,
    config_dir,
    tokenizer_dir,
    weights_dir,
)
from core.models.weight_files import WeightFiles, meta_model

CONFIG = "config.json"
LONGEST_LINE = 300
"""Characters of a library's message that are repeated."""
NO_TOKENIZER = "has no tokenizer files; save its tokenizer beside it"


def read_config(source: ModelSource) -> PreTrainedConfig:
    """Return the config of a model; refuse in one line a model that cannot be pruned here."""
    name = source.name
    with named_errors(name, CONFIG), quiet():
        directory = config_dir(source)
        values = json_object(name, directory / "config.json")
        require_model_type(name, values)
        require_sizes(name, values)
        require_numbers(name, values)
        require_dtype_name(name, values)
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    with named_errors(name, CONFIG):
        require_known_family(name, config)
        require_unquantized(name, config)
        require_heads(name, config)
    return config


@contextmanager
def named_errors(name: str, file: str) -> Iterator[None]:
    """Turn errors of all types, which libraries raise on a bad file of a model, into one line."""
    try:
        yield
    except BadInputError:
        raise
    except Exception as error:
        remedy = f"its {file} cannot be used: {in_a_line(error)}; mend it or copy it again"
        raise BadInputError(f"--models {name}: {remedy}") from error


def in_a_line(error: Exception) -> str:
    """Return the first line of an error, and its type where the words alone say too little."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        return f"{lines[0]} {lines[1]}"[:LONGEST_LINE]
    told = first_line(error)[:LONGEST_LINE].rstrip(".")
    return told if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {told}"


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
    source = _source(source)
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
    config.num_hidden_layers = min(num_blocks, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    with quiet():
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def load_tokenizer(source: ModelSource | str | Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer stored with a model.

    Raises:
        ValueError: in one line, if there is none.
    """
    source = _source(source)
    try:
        with quiet():
            directory = tokenizer_dir(source)
            require_content(source.name, directory)
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except BadInputError:
        raise
    except Exception as error:
        told = in_a_line(error).rstrip(" :.")
        remedy = f"its tokenizer cannot be loaded: {told}; save its tokenizer beside it again"
        raise BadInputError(f"--models {source.name}: {remedy}") from error
    # Without tokenizer files some families silently get a tokenizer that knows no text.
    known = len(tokenizer) > len(tokenizer.all_special_tokens)
    require(known, "models", source.name, NO_TOKENIZER)
    return tokenizer


def require_content(name: str, directory: Path) -> None:
    """Refuse a tokenizer without a vocabulary, and files that are empty or git-lfs pointers."""
    files = [file for file in directory.iterdir() if TOKENIZER_FILES.fullmatch(file.name)]
    vocabularies = [file for file in files if not re.search("_config|_tokens", file.name)]
    require(bool(vocabularies), "models", name, NO_TOKENIZER)
    for file in filter(Path.is_file, files):
        with open(file, "rb") as opened:
            reason = no_content(opened.read(len(LFS_POINTER)))
        require(reason is None, "models", name, f"{file.name} {reason}")


def _source(source: ModelSource | str | Path) -> ModelSource:
    """Return a directory as a source. Nobody needs its identity here, so nothing is hashed."""
    if isinstance(source, ModelSource):
        return source
    return ModelSource(str(source), str(source), revision=None, identity="")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and load reports off the terminal."""
    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
