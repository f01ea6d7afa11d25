"""Loads causal language models, finds their decoder blocks and prunable linears, runs blocks.

The only file that knows model families. All of them share one description: a *backbone* module
runs embeddings, then a `ModuleList` of decoder blocks called `layers`, then a final norm; every
`nn.Linear` inside a block is prunable and nothing else is. A new family is one line of `BACKBONES`
and one tiny config in `tests/test_models.py`. Which model a name means is told by
`model_source.py`, whose names are offered here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
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

from core.config import require
from core.identity import first_line
from core.model_source import EMBEDDED as EMBEDDED
from core.model_source import ModelSource, config_dir, tokenizer_dir, weights_dir
from core.model_source import resolve_model as resolve_model

BACKBONES = {"opt": "model.decoder"} | dict.fromkeys(
    ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), "model"
)
"""Where the backbone of each supported `model_type` is."""
NO_LIMIT = 2**31 - 1
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Linear:
    """One prunable matrix."""

    name: str
    rows: int
    cols: int
    block: int


@dataclass(frozen=True)
class ModelFacts:
    """What a plan needs to know of a model, from its config alone."""

    name: str
    model_type: str
    num_blocks: int
    hidden_size: int
    vocab_size: int
    max_seq_len: int
    """Tokens; `NO_LIMIT` where the config names none."""
    dtype: str
    """Of the stored weights: `float32`, `bfloat16` or `float16`."""
    num_parameters: int
    linears: tuple[Linear, ...]


def describe_model(source: ModelSource) -> ModelFacts:
    """Reads the config and builds the model without memory for weights.

    Raises:
        ValueError: in one line, for a model that cannot be pruned here.
    """
    config = _config(source)
    with torch.device("meta"), _quiet():
        model = AutoModelForCausalLM.from_config(config)
    per_block = prunable_linears(model)
    return ModelFacts(
        name=source.name,
        model_type=config.model_type,
        num_blocks=len(per_block),
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        max_seq_len=getattr(config, "max_position_embeddings", None) or NO_LIMIT,
        dtype=str(config.dtype or torch.float32).removeprefix("torch."),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        linears=tuple(
            Linear(name, linear.out_features, linear.in_features, index)
            for index, linears in enumerate(per_block)
            for name, linear in linears.items()
        ),
    )


def _config(source: ModelSource) -> PreTrainedConfig:
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(config_dir(source), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        remedy = f"its config cannot be read: {first_line(error)}"
        raise ValueError(f"--models {source.name}: {remedy}") from error
    kind, known = config.model_type, ", ".join(BACKBONES)
    experts = max((getattr(config, key, None) or 0 for key in EXPERT_COUNTS), default=0)
    remedy = f"a mixture of experts ({kind}) cannot be pruned; known are {known}"
    require(experts <= 1 and "moe" not in kind, "models", source.name, remedy)
    remedy = f"no decoder blocks are known for model type {kind!r}; known are {known}"
    require(kind in BACKBONES, "models", source.name, remedy)
    remedy = "its weights are quantized; give the model they were made from"
    require(getattr(config, "quantization_config", None) is None, "models", source.name, remedy)
    return config


def load_model(source: ModelSource | str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """Loads weights in `dtype` on the CPU, for evaluation (no dropout, no key-value cache).

    Raises:
        ValueError: if the checkpoint lacks weights, which would otherwise start out random.
    """
    source = _source(source)
    config = _config(source)
    config.use_cache = False
    try:
        with _quiet():
            directory = weights_dir(source)
            # A conversion to safetensors on the hub may hold the weights alone.
            alone = not (directory / "config.json").is_file()
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                directory,
                config=config,
                generation_config=GenerationConfig.from_model_config(config) if alone else None,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, SafetensorError) as error:
        remedy = f"its weights cannot be loaded: {first_line(error)}"
        raise ValueError(f"--models {source.name}: {remedy}") from error
    model, info = loaded
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    remedy = f"{len(absent)} weights are missing or misshapen, first {absent[:1]}; save it anew"
    require(not absent, "models", source.name, remedy)
    return model.eval()


def sample_model(source: ModelSource, num_blocks: int, dtype: torch.dtype) -> PreTrainedModel:
    """The first blocks of a model with random weights, to time what the whole would take."""
    config = _config(source)
    config.use_cache = False
    config.num_hidden_layers = min(num_blocks, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    with _quiet():
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def load_tokenizer(source: ModelSource | str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer stored with a model.

    Raises:
        ValueError: in one line, if there is none.
    """
    source = _source(source)
    try:
        with _quiet():
            directory = tokenizer_dir(source)
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:
        # A missing tokenizer surfaces as whatever the last parser tried on it raises.
        remedy = f"its tokenizer cannot be loaded: {first_line(error)}"
        raise ValueError(f"--models {source.name}: {remedy}") from error
    # Without tokenizer files some families get a tokenizer that knows no text, without a word.
    known = len(tokenizer) > len(tokenizer.all_special_tokens)
    require(known, "models", source.name, "has no tokenizer files; save its tokenizer beside it")
    return tokenizer


def _source(source: ModelSource | str | Path) -> ModelSource:
    """A directory as a source; its identity is not asked for, so nothing is hashed."""
    if isinstance(source, ModelSource):
        return source
    return ModelSource(str(source), str(source), revision=None, identity="")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' progress bars and load reports off the terminal."""
    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def hidden_backbone(model: PreTrainedModel) -> nn.Module:
    """The module from token ids through embeddings and blocks to the final norm, without a head."""
    return model.get_submodule(BACKBONES[model.config.model_type])


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks in the order in which they run."""
    blocks = hidden_backbone(model).layers
    assert isinstance(blocks, nn.ModuleList) and len(blocks) > 0
    return blocks


def prunable_linears(model: PreTrainedModel) -> list[dict[str, nn.Linear]]:
    """Every `nn.Linear` of each block by qualified name, in module order.

    Embeddings, `lm_head` and OPT-350M's `project_in/out` are outside the blocks. A weight that is
    shared with another place in the model would be pruned there too: none is, and it is checked.
    """
    prefix = f"{BACKBONES[model.config.model_type]}.layers"
    found = [
        {
            f"{prefix}.{index}.{name}": module
            for name, module in block.named_modules()
            if isinstance(module, nn.Linear)
        }
        for index, block in enumerate(decoder_blocks(model))
    ]
    assert all(found), "a decoder block without linear layers"
    places = [_place(weight) for _, weight in model.named_parameters(remove_duplicate=False)]
    for linears in found:
        for name, linear in linears.items():
            assert places.count(_place(linear.weight)) == 1, f"{name} is a tied tensor"
    return found


def _place(parameter: Tensor) -> int:
    """What two parameters have in common if a write to one shows in the other."""
    if isinstance(parameter, DTensor) or parameter.is_meta or parameter.numel() == 0:
        return id(parameter)
    return parameter.data_ptr()


class _PassThrough(nn.Module):
    """Stands in for a block: notes how it is called and hands the hidden states on.

    The block stays a submodule: FSDP2 looks for the parts of a model at the first forward.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block
        self.hidden: Tensor | None = None
        self.kwargs: dict[str, Any] = {}

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        self.hidden, self.kwargs = hidden_states, kwargs
        return hidden_states

    def __getattr__(self, name: str) -> Any:
        # Some backbones read their blocks' attributes, such as the kind of attention.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("block"), name)


@torch.no_grad()
def block_inputs(model: PreTrainedModel, input_ids: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
    """What the backbone gives its blocks, found without running any of them.

    Args:
        model: the causal LM; embeddings must be whole, not sharded.
        input_ids: windows of equal length, [batch, seq_len].

    Returns:
        The first block's input [batch, seq_len, hidden_size], and for each block the keyword
        arguments it is called with (mask, position embeddings: these differ by kind of attention).
    """
    blocks = decoder_blocks(model)
    originals = list(blocks)
    stand_ins = [_PassThrough(block) for block in originals]
    try:
        for index, stand_in in enumerate(stand_ins):
            blocks[index] = stand_in
        hidden_backbone(model)(input_ids=input_ids, use_cache=False)
    finally:
        for index, block in enumerate(originals):
            blocks[index] = block
    hidden = stand_ins[0].hidden
    assert hidden is not None
    drop = ("past_key_values", "use_cache")
    kwargs = [{k: v for k, v in s.kwargs.items() if k not in drop} for s in stand_ins]
    return hidden, kwargs


def run_block(block: Callable[..., Any], hidden: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """A block's output hidden states; blocks of some releases return a tuple that begins so."""
    output = block(hidden, **kwargs)
    return output[0] if isinstance(output, tuple) else output
