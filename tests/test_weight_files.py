"""A model directory read by slices equals `from_pretrained`, whatever its files look like."""

import copy
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig

from core.models.blocks import decoder_blocks
from core.models.configs import read_config
from core.models.loading import load_model
from core.models.sources import resolve_model, weight_paths
from core.models.weight_files import WeightFiles, meta_model
from tests.tiny_families import FAMILIES, LLAMA

CPU = torch.device("cpu")
LLAMA_CONFIG = FAMILIES["llama"][0]
TIED = LlamaConfig(**LLAMA, tie_word_embeddings=True)
BIASED = LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True)
SCALED = LlamaConfig(
    **LLAMA,
    rope_parameters={
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
)
MIXTRAL = MixtralConfig(**LLAMA, num_local_experts=3)
GPT2 = GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64)
OTHERS = {"biases": BIASED, "llama 3": SCALED, "mixtral": MIXTRAL, "gpt2": GPT2}
CONFIGS = {name: config for name, (config, _) in FAMILIES.items()} | OTHERS


@dataclass
class Saved:
    """A random model as a checkpoint directory."""

    directory: Path

    def whole(self, dtype: torch.dtype):
        """Return the model as `from_pretrained` loads it."""
        return AutoModelForCausalLM.from_pretrained(self.directory, dtype=dtype)

    def files(self, dtype: torch.dtype) -> WeightFiles:
        """Return a reader of the directory for a model on meta."""
        return WeightFiles(self.directory, meta_model(self.whole(dtype).config, dtype))

    def rewrite(self, change) -> None:
        """Replace the tensors of the only file by what `change` makes of them."""
        file = self.directory / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})


@pytest.fixture
def save(tmp_path):
    """Return a function that writes a random model of a config."""

    def write(config, dtype=torch.float32, size="5GB") -> Saved:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(tmp_path, max_shard_size=size)
        return Saved(tmp_path)

    return write


def assert_equal(found, wanted) -> None:
    """Two models have equal weights and buffers, in the same dtypes and tied alike."""
    for kind in ("named_parameters", "named_buffers"):
        one, two = dict(getattr(found, kind)()), dict(getattr(wanted, kind)())
        assert one.keys() == two.keys()
        for name, tensor in two.items():
            assert one[name].dtype == tensor.dtype and one[name].device.type == "cpu", name
            assert torch.equal(one[name], tensor), name


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_and_buffers_equal_those_of_from_pretrained(save, name):
    # Stored in bfloat16, in several files, and read in float32.
    saved = save(CONFIGS[name], torch.bfloat16, "20KB")
    assert len(weight_paths(saved.directory)) > 2
    files = saved.files(torch.float32)
    files.fill_(files.model, "", CPU)
    assert not files.unmapped
    assert_equal(files.model, saved.whole(torch.float32))


def bare(tensors):
    """Names as the model without its head has them."""
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def with_equal_head(tensors):
    """A second copy of a tied embedding."""
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


def with_other_head(tensors):
    """A head of its own beside an embedding that the config ties to it."""
    return tensors | {"lm_head.weight": 2 * tensors["model.embed_tokens.weight"]}


def with_head_alone(tensors):
    """The head in place of the embedding that it is tied to."""
    return {n.replace("model.embed_tokens", "lm_head"): t for n, t in tensors.items()}


@pytest.mark.parametrize("change", [bare, with_equal_head, with_other_head, with_head_alone])
def test_other_names_and_ties_are_read_as_from_pretrained_reads_them(save, change):
    saved = save(TIED)
    saved.rewrite(change)
    files = saved.files(torch.float32)
    files.fill_(files.model, "", CPU)
    assert_equal(files.model, saved.whole(torch.float32))


def test_a_slice_reads_only_its_rows(save):
    saved = save(LLAMA_CONFIG, torch.bfloat16)
    files, whole = saved.files(torch.float32), saved.whole(torch.float32).state_dict()
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(files.read(name, slice(5, 12)), whole[name][5:12])
    assert files.bytes_read == 7 * 32 * 2
    assert files.read(name, slice(64, 64)).shape == (0, 32)


def test_a_slice_of_experts_is_cut_from_the_converted_weight(save):
    saved = save(MIXTRAL)
    whole = saved.whole(torch.float32).state_dict()
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert torch.equal(saved.files(torch.float32).read(name, slice(1, 3)), whole[name][1:3])


def test_a_block_is_filled_alone_and_no_file_stays_mapped(save):
    saved = save(LLAMA_CONFIG)
    whole, files = saved.whole(torch.float32), saved.files(torch.float32)
    block = decoder_blocks(files.model)[1]
    files.fill_(block, "model.layers.1", CPU)
    assert_equal(block, decoder_blocks(whole)[1])
    assert (
        files.model.lm_head.weight.is_meta
        and files.model.model.layers[0].mlp.up_proj.weight.is_meta
    )
    assert files.bytes_read == sum(p.nbytes for p in block.parameters())
    del whole
    assert str(saved.directory) not in Path("/proc/self/maps").read_text()


def test_what_no_file_has_is_loaded_whole_and_said(save, caplog):
    saved = save(LLAMA_CONFIG)
    lost = "model.layers.1.input_layernorm.weight"
    saved.rewrite(lambda tensors: {n: t for n, t in tensors.items() if n != lost})
    with caplog.at_level(logging.WARNING):
        files = saved.files(torch.float32)
    assert files.unmapped == [lost] and lost in caplog.text
    whole = saved.whole(torch.float32)
    files.fill_(files.model, "", CPU)
    assert_equal(files.model, whole)


def test_settings_of_generation_are_those_of_from_pretrained():
    source = resolve_model("embedded")
    directory, config = source.path_or_repo, read_config(source)
    whole = AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=torch.float32)
    found = load_model(source, torch.float32).generation_config
    assert found.to_json_string() == whole.generation_config.to_json_string()
