"""Weights written one tensor at a time: the same files as with all of them in memory."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MixtralConfig
from transformers.core_model_loading import Transpose, WeightConverter

from core.models.loading import load_model
from core.models.saving import save_model
from core.models.sources import WEIGHTS, WEIGHTS_INDEX, resolve_model, weight_paths
from core.models.weight_files import WeightFiles, meta_model
from core.models.weight_writer import DTYPES, MAX_SHARD_SIZE, WeightWriter
from core.ranks import Ranks
from tests.tiny_families import FAMILIES, LLAMA

RANKS = Ranks.current()
MIXTRAL = MixtralConfig(**LLAMA, num_local_experts=3)
GPT2 = GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64)
CONFIGS = {n: FAMILIES[n][0] for n in ("opt-350m", "smollm2", "gemma3")}
CONFIGS |= {"mixtral": MIXTRAL, "gpt2": GPT2}


def test_a_file_equals_that_of_safetensors_byte_for_byte(tmp_path):
    tensors = {
        f"{name}.{dtype}".replace("torch.", ""): torch.arange(n).view(shape).to(dtype)
        for dtype in DTYPES
        for name, n, shape in (("b", 6, (2, 3)), ("a", 0, (0, 4)), ("ö", 1, ()), ("c", 5, (5,)))
    }
    save_file(tensors, tmp_path / "wanted", metadata={"format": "pt"})
    with WeightWriter(tmp_path, tensors, MAX_SHARD_SIZE) as writer:
        for name in sorted(tensors, reverse=True):
            writer.write(name, tensors[name])
    assert (tmp_path / WEIGHTS).read_bytes() == (tmp_path / "wanted").read_bytes()


@pytest.mark.parametrize("name", CONFIGS)
def test_files_have_the_names_that_save_pretrained_gives_them(tmp_path, name):
    with torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32)
    model.save_pretrained(tmp_path / "wanted")
    files = WeightFiles(tmp_path / "wanted", meta_model(model.config, torch.float32))
    files.fill_(files.model, "", torch.device("cpu"))
    for number, each in enumerate((model, files.model)):
        folder = tmp_path / f"found {number}"
        save_model(folder, each, {}, RANKS)
        wanted, found = load_file(tmp_path / "wanted" / WEIGHTS), load_file(folder / WEIGHTS)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def test_a_conversion_that_keeps_the_shape_is_reverted(tmp_path, monkeypatch):
    square = LLAMA | {"intermediate_size": LLAMA["hidden_size"]}
    with torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(LlamaConfig(**square), dtype=torch.float32)

    def rules(*_, **__):
        return [WeightConverter("mlp.up", "mlp.up_proj.weight", [Transpose(0, 1)])]

    monkeypatch.setattr("core.models.conversion.get_model_conversion_mapping", rules)
    model._weight_conversions = rules()
    save_model(tmp_path, model, {}, RANKS)
    name = "model.layers.0.mlp.up_proj.weight"
    weight = model.get_parameter(name)
    assert torch.equal(load_file(tmp_path / WEIGHTS)["model.layers.0.mlp.up"], weight.T)
    files = WeightFiles(tmp_path, meta_model(model.config, torch.float32))
    assert torch.equal(files.read(name), weight)


def test_a_model_past_the_size_is_written_in_shards(tmp_path, tiny_llama_dir):
    model = load_model(tiny_llama_dir, torch.bfloat16)
    save_model(tmp_path, model, {}, RANKS)
    one = resolve_model(str(tmp_path)).identity
    save_model(tmp_path, model, {}, RANKS, "16KB")
    index, *shards = weight_paths(tmp_path)
    assert index.name == WEIGHTS_INDEX and len(shards) > 2 and not (tmp_path / WEIGHTS).exists()
    assert all(shard.stat().st_size < 17_000 for shard in shards[1:])
    told = json.loads(index.read_text())
    assert told["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    assert resolve_model(str(tmp_path)).identity != one
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_a_full_disk_is_told_after_the_last_gathered_weight(tmp_path, tiny_opt_dir, monkeypatch):
    model, gathered = load_model(tiny_opt_dir, torch.float32), []
    monkeypatch.setattr("core.models.saving.whole", lambda t: gathered.append(t) or t)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WeightWriter, "write", full)
    with pytest.raises(OSError, match="No space"):
        save_model(tmp_path, model, {}, RANKS)
    assert len(gathered) == len(list(model.parameters()))
