"""A model larger than memory: pruned and evaluated from files, one block at a time."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config

from core.activations import Calibration
from core.config import PruneConfig
from core.finished_blocks import Resumption
from core.measures.perplexity import evaluate
from core.measures.sparsity import measure
from core.models.anatomy import AnatomyError
from core.models.block_check import require_equal_streamed_blocks
from core.models.blocks import decoder_blocks, prunable_blocks
from core.models.hidden_states import HiddenStates
from core.models.loading import load_model, open_model
from core.models.mask_files import MASKS_FILE, load_masks
from core.models.model_writer import ModelWriter
from core.models.residence import Streamed, residence_of
from core.models.sources import WEIGHTS_INDEX, weight_paths
from core.pruners import PRUNERS
from core.pruners.pruner import PruningError
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.texts.windows import evaluation_windows
from tests.tiny_types import config_of

tiny_families = runpy.run_path(str(Path(__file__).with_name("tiny_families.py")))
FAMILIES, VOCAB = tiny_families["FAMILIES"], tiny_families["VOCAB"]
GPT2 = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64)
CONFIGS = {name: config for name, (config, _) in FAMILIES.items()} | {"gpt2": GPT2}
RANKS = Ranks.current()
WINDOWS = torch.randint(VOCAB, (5, 24), generator=torch.Generator().manual_seed(0))
CALIBRATION = Calibration(WINDOWS, micro_batch=2)

pytestmark = pytest.mark.usefixtures("one_thread")


def streamed(directory, output=None):
    """Return a model whose weights stay in a directory, and are written to another one."""
    files = open_model(directory, torch.float32)
    place = Streamed(files, RANKS)
    if output is not None:
        place.write_to(ModelWriter(output, files.model))
    return files.model


def perplexity(model):
    stream = WINDOWS.flatten()
    windows = evaluation_windows(len(stream), 24, 16, None)
    return evaluate(model, stream, windows, RANKS, micro_batch=2)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_streamed_model_is_pruned_and_evaluated_as_one_in_memory(
    family, make_model_dir, tmp_path
):
    directory = make_model_dir(CONFIGS[family])
    whole, parts = load_model(directory, torch.float32), streamed(directory, tmp_path)
    assert perplexity(parts) == perplexity(whole)
    pruner = PRUNERS["sparsegpt"](PruneConfig(block_size=16))
    wanted, report = (
        prune_(model, pruner, Target(0.5), RANKS, CALIBRATION) for model in (whole, parts)
    )
    assert (report.errors, report.dampening_frac) == (wanted.errors, wanted.dampening_frac)
    residence_of(parts).finish(parts)
    assert measure(parts, report.masks) == measure(whole, wanted.masks)
    assert perplexity(parts) == perplexity(whole)
    assert all(parameter.is_meta for parameter in parts.parameters())
    masks = load_masks(tmp_path / MASKS_FILE)
    assert masks.keys() == wanted.masks.keys()
    assert all(torch.equal(masks[name], mask) for name, mask in wanted.masks.items())
    state = {}
    for shard in {*json.loads((tmp_path / WEIGHTS_INDEX).read_text())["weight_map"].values()}:
        state |= load_file(tmp_path / shard)
    assert all(torch.equal(state[name], weight) for name, weight in whole.named_parameters())


def test_only_one_block_is_in_memory_at_a_time(make_model_dir, tmp_path):
    model = streamed(make_model_dir(FAMILIES["llama"][0]), tmp_path)
    found = []

    def see(module, *_):
        blocks = [block for block in decoder_blocks(model) if not is_meta(block)]
        found.append(([*blocks] == [module], model.lm_head.weight.is_meta))

    for block in decoder_blocks(model):
        block.register_forward_pre_hook(see)
    prune_(model, PRUNERS["wanda"](PruneConfig()), Target(0.5), RANKS, CALIBRATION)
    perplexity(model)
    assert found and set(found) == {(True, True)}


def test_blocks_are_compared_with_the_whole_model_in_one_reading(make_model_dir):
    for config in (*CONFIGS.values(), config_of("mixtral"), config_of("gemma3n_text")):
        model = streamed(make_model_dir(config))
        place = residence_of(model)
        require_equal_streamed_blocks(model, place)
        assert is_meta(model) and not place.open
        size = sum(path.stat().st_size for path in weight_paths(place.files.directory))
        assert place.files.bytes_read <= size
        assert not any(b._forward_hooks or b._forward_pre_hooks for b in decoder_blocks(model))


@pytest.mark.parametrize("index", [0, 1])
def test_a_streamed_block_that_gives_something_else_is_refused(index, make_model_dir):
    model = streamed(make_model_dir(FAMILIES["llama"][0]))
    decoder_blocks(model)[index].register_forward_hook(lambda _, __, out: out + 1e-6)
    with pytest.raises(AnatomyError, match=f"block {index}, run by itself, gives other hidden"):
        require_equal_streamed_blocks(model, residence_of(model))
    assert is_meta(model)


def test_a_streamed_model_whose_tokens_see_later_ones_is_refused(make_model_dir):
    model = streamed(make_model_dir(FAMILIES["llama"][0]))
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(AnatomyError, match="it is an encoder"):
        require_equal_streamed_blocks(model, residence_of(model))


def is_meta(module):
    return all(parameter.is_meta for parameter in module.parameters())


def test_files_are_closed_after_each_block(make_model_dir):
    model = streamed(make_model_dir(FAMILIES["opt"][0]))
    with residence_of(model).opened(prunable_blocks(model)[0].module):
        pass
    assert ".safetensors" not in Path("/proc/self/maps").read_text()


def test_a_failed_block_is_not_written_and_is_dropped(make_model_dir, tmp_path):
    model = streamed(make_model_dir(FAMILIES["llama"][0]), tmp_path)

    def keep(block):
        if block.index == 1:
            raise PruningError("no")

    calibration = Calibration(WINDOWS, resumption=Resumption(keep=keep))
    with pytest.raises(PruningError):
        prune_(model, PRUNERS["wanda"](PruneConfig()), Target(0.5), RANKS, calibration)
    assert [path.name for path in tmp_path.glob("model-*")] == ["model-00002-of-00003.safetensors"]
    assert is_meta(model)


@pytest.mark.parametrize("limit", [0, 300, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_keep_their_values_in_memory_and_on_disk(limit, dtype, tmp_path):
    made = [torch.randn(2, 3, 8).to(dtype) for _ in range(4)]
    kept = HiddenStates(torch.device("cpu"), tmp_path, limit)
    for hidden in made:
        kept.append(torch.zeros_like(hidden))
    for index, hidden in enumerate(made):
        kept[index] = hidden
    assert all(map(torch.equal, kept, made)) and len(kept) == 4
    mapped = Path("/proc/self/maps").read_text().count(str(tmp_path))
    fits = min(4, limit // made[0].nbytes)
    assert mapped == 4 - fits
    assert not [*tmp_path.iterdir()]
