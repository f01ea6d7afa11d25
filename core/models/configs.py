"""Configs of models: read, checked, and errors of their files told in one line.

Nothing here imports transformers' models, which take seconds to import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging as hf_logging

from core.checks import BadInputError
from core.hub.identity import first_line
from core.models.checkpoint_files import json_object
from core.models.config_checks import (
    require_causal_head,
    require_dtype_name,
    require_heads,
    require_model_type,
    require_numbers,
    require_sizes,
    require_unquantized,
)
from core.models.sources import ModelSource, config_dir

CONFIG = "config.json"
LONGEST_LINE = 300
"""Characters of a library's message that are repeated."""


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
        require_causal_head(name, config)
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


def as_source(source: ModelSource | str | Path) -> ModelSource:
    """Return a directory as a source. Nobody needs its identity here, so nothing is hashed."""
    if isinstance(source, ModelSource):
        return source
    return ModelSource(str(source), str(source), revision=None, identity="")
