"""Families, their blocks, halves and prunable matrices, and blocks run one by one."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    Llama4TextConfig,
    MllamaConfig,
    ViTConfig,
    XLMConfig,
)

from core.activations import Activations, gather_statistics
from core.models.anatomy import anatomy_of
from core.models.blocks import (
    decoder_blocks,
    hidden_backbone,
    prunable_blocks,
    prunable_matrices,
)
from core.models.calls import Call, block_inputs, run_block
from core.models.description import describe_model
from core.models.facts import NO_LIMIT
from core.models.families import FAMILIES
from core.models.loading import load_model
from core.models.matrices import Matrix
from core.models.sources import resolve_model
from core.models.tokenizers import load_tokenizer
from core.pruners.hessian import InputNorms
from core.ranks import Ranks
from core.training.halves import PlainBlocks

tiny_families = runpy.run_path(str(Path(__file__).with_name("tiny_families.py")))
TINY, LLAMA, VOCAB = (tiny_families[name] for name in ("FAMILIES", "LLAMA", "VOCAB"))
RANKS = Ranks.current()


@pytest.fixture(scope="module", params=TINY)
def family(request):
    """The name of each family in turn."""
    return request.param


@pytest.fixture(scope="module")
def model(family):
    """A random model of each family."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(TINY[family][0], dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def input_ids() -> torch.Tensor:
    return torch.randint(3, VOCAB, (2, 16), generator=torch.Generator().manual_seed(0))


def test_every_known_family_is_tested():
    assert {config.model_type for config, _ in TINY.values()} == set(FAMILIES)


def test_prunable_matrices_are_those_of_the_blocks(model, family):
    wanted = TINY[family][1]
    path = anatomy_of(model).path
    for index, block in enumerate(prunable_blocks(model)):
        assert block.index == index and block.module is decoder_blocks(model)[index]
        assert set(block.matrices) == {f"{path}.{index}.{name}" for name in wanted}
        for name, matrix in block.matrices.items():
            assert matrix.name == name and matrix.block == index
            assert model.get_submodule(name).weight is matrix.parameter
    assert len(prunable_blocks(model)) == len(decoder_blocks(model)) == 2


def test_a_matrix_is_read_written_and_observed():
    matrix, x, seen = Matrix("a", 0, torch.nn.Linear(3, 2)), torch.ones(4, 3), []
    assert (matrix.rows, matrix.cols, matrix.numel) == (2, 3, 6)
    matrix.write_(torch.arange(6.0).view(2, 3))
    assert torch.equal(matrix.read(), torch.arange(6.0).view(2, 3))
    hook = matrix.observe(seen.append)
    matrix.module(x)
    hook.remove()
    matrix.module(x)
    assert len(seen) == 1 and torch.equal(seen[0], x)


def test_another_product_keeps_the_bias_and_can_be_taken_back():
    matrix, x = Matrix("a", 0, torch.nn.Linear(3, 2)), torch.ones(4, 3)
    before, factor = matrix.module(x), torch.nn.Parameter(torch.tensor(2.0))
    matrix.replace_product_(lambda x, weight: factor * (x @ weight.T), {"factor": factor})
    assert torch.allclose(matrix.module(x), 2 * before - matrix.module.bias)
    assert "factor" in dict(matrix.module.named_parameters())
    matrix.restore_product_(["factor"])
    assert torch.equal(matrix.module(x), before)
    assert [name for name, _ in matrix.module.named_parameters()] == ["weight", "bias"]


def test_every_other_linear_is_a_head_or_a_projection(model):
    prunable = set(prunable_matrices(model))
    others = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - prunable
    assert {name.split(".")[-1] for name in others} <= {"lm_head", "project_in", "project_out"}
    assert "lm_head" in others


@torch.no_grad()
def test_matrices_share_the_inputs_that_were_found(model, input_ids):
    activations = Activations(model, [input_ids], RANKS)
    block = prunable_blocks(model)[0]
    groups = gather_statistics(InputNorms, block, activations, RANKS)
    found = [[one.name for one in group.matrices] for group in groups]
    anatomy, traced = anatomy_of(model), dict[str, list[str]]()
    for name, first in anatomy.blocks[0].inputs.items():
        traced.setdefault(first, []).append(f"{anatomy.path}.0.{name}")
    assert found == [*traced.values()]
    (three,) = (group for group in found if len(group) == 3)
    assert {name.rpartition(".")[2] for name in three} == {"q_proj", "k_proj", "v_proj"}
    assert sorted(map(len, found)) == (
        [1, 1, 1, 3] if "opt" in family_name(model) else [1, 1, 2, 3]
    )


def family_name(model) -> str:
    return model.config.model_type


@torch.no_grad()
def test_blocks_run_one_by_one_equal_the_whole_model(model, input_ids):
    reference = model(input_ids, output_hidden_states=True, use_cache=False).hidden_states
    hidden, kwargs = block_inputs(model, input_ids)
    assert torch.equal(hidden, reference[0])
    blocks = decoder_blocks(model)
    for index, block in enumerate(blocks):
        hidden = run_block(block, hidden, kwargs[index])
        if index + 1 < len(blocks):
            assert torch.equal(hidden, reference[index + 1])
    # The last of the reference is behind the final norm and projection: replay them.
    last = blocks[-1].register_forward_hook(lambda *_: hidden)
    try:
        rest = hidden_backbone(model)(input_ids=input_ids, use_cache=False).last_hidden_state
    finally:
        last.remove()
    whole = hidden_backbone(model)(input_ids=input_ids, use_cache=False).last_hidden_state
    assert torch.equal(rest, whole)


def test_a_plain_block_and_its_halves_give_what_the_block_gives(model, input_ids):
    plain, (hidden, kwargs) = PlainBlocks(model), block_inputs(model, input_ids)
    for original in prunable_blocks(model):
        index = original.index
        block = plain.take(index, RANKS.device)
        attention, mlp = plain.halves(block, index)
        wanted = run_block(original.module, hidden, kwargs[index])
        assert torch.equal(mlp.output(hidden, kwargs[index]), wanted)
        # Each half's output depends on its own parameters; attention's on no other.
        for half in (attention, mlp):
            params = half.parameters()
            grads = torch.autograd.grad(
                half.output(hidden, kwargs[index]).square().sum(), params, allow_unused=True
            )
            assert all(grad is not None for grad in grads)
        middle = attention.output(hidden, kwargs[index])
        unused = torch.autograd.grad(middle.square().sum(), mlp.parameters(), allow_unused=True)
        assert all(grad is None for grad in unused)
        sizes = [sum(p.numel() for p in half.parameters()) for half in (attention, mlp)]
        assert sum(sizes) == sum(p.numel() for p in original.module.parameters())
        assert attention.matrices.keys() | mlp.matrices.keys() == original.matrices.keys()
        assert not attention.matrices.keys() & mlp.matrices.keys()
        hidden = wanted


def test_the_attention_half_ends_before_any_norm_of_the_mlp_half(model, input_ids):
    plain, (hidden, kwargs) = PlainBlocks(model), block_inputs(model, input_ids)
    block = plain.take(0, RANKS.device)
    attention, _ = plain.halves(block, 0)
    for name, param in block.named_parameters():
        if "norm" not in name:
            param.data.zero_()
    # Without its products the half adds nothing to the residual stream.
    wanted = hidden
    if not getattr(model.config, "do_layer_norm_before", True):
        wanted = block.self_attn_layer_norm(hidden)
    assert torch.equal(attention.output(hidden, kwargs[0]), wanted)


def test_block_inputs_leaves_the_model_as_it_was(model, input_ids):
    before = list(decoder_blocks(model))
    names = [name for name, _ in model.named_parameters()]
    _, kwargs = block_inputs(model, input_ids)
    assert all(a is b for a, b in zip(before, decoder_blocks(model), strict=True))
    assert names == [name for name, _ in model.named_parameters()]
    assert not any({"past_key_values", "use_cache"} & set(k.kwargs) for k in kwargs)
    with pytest.raises(Exception):  # noqa: B017 - whatever a backbone makes of text
        block_inputs(model, "not ids")
    assert all(a is b for a, b in zip(before, decoder_blocks(model), strict=True))


def test_kinds_of_attention_get_their_own_arguments(input_ids):
    model = AutoModelForCausalLM.from_config(TINY["gemma3"][0]).eval()
    _, (sliding, full) = block_inputs(model, input_ids)
    assert not torch.equal(
        sliding.kwargs["position_embeddings"][0], full.kwargs["position_embeddings"][0]
    )


def test_a_block_that_returns_a_tuple_is_unwrapped():
    class Older(torch.nn.Module):
        def forward(self, hidden_states, scale):
            return hidden_states * scale, "weights"

    assert run_block(Older(), torch.ones(1), Call(kwargs={"scale": 3})).item() == 3


def test_a_tied_prunable_weight_is_caught():
    model = AutoModelForCausalLM.from_config(TINY["llama"][0])
    first, second = decoder_blocks(model)
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    with pytest.raises(ValueError, match="--models given: .*up_proj shares its tensor .*; save it"):
        prunable_blocks(model)


def test_block_inputs_under_fsdp2(tmp_path, input_ids):
    from torch import distributed as dist
    from torch.distributed.fsdp import fully_shard

    model = AutoModelForCausalLM.from_config(TINY["llama"][0], dtype=torch.float32).eval()
    with torch.no_grad():
        wanted = hidden_backbone(model)(input_ids=input_ids, use_cache=False).last_hidden_state
        hidden_wanted, _ = block_inputs(model, input_ids)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for block in decoder_blocks(model):
            fully_shard(block)
        backbone = fully_shard(hidden_backbone(model))
        # The very first forward is the one with stand-ins; the whole model must still run after.
        hidden, kwargs = block_inputs(model, input_ids)
        assert torch.equal(hidden, hidden_wanted)
        with torch.no_grad():
            for block, arguments in zip(decoder_blocks(model), kwargs, strict=True):
                hidden = run_block(block, hidden, arguments)
            assert torch.equal(backbone(input_ids=input_ids, use_cache=False)[0], wanted)
        assert torch.allclose(model.model.norm(hidden), wanted)
    finally:
        dist.destroy_process_group()


def test_facts_come_without_weights(tiny_opt_dir, tiny_llama_dir):
    facts = describe_model(resolve_model(str(tiny_opt_dir)))
    model = load_model(tiny_opt_dir, torch.float32)
    assert facts.model_type == "opt" and facts.dtype == "float32"
    assert (facts.num_blocks, facts.hidden_size) == (2, 32)
    assert (facts.vocab_size, facts.max_seq_len) == (320, 128)
    assert facts.num_parameters == sum(p.numel() for p in model.parameters())
    shapes = [
        (name, *model.get_submodule(name).weight.shape, block.index)
        for block in prunable_blocks(model)
        for name in block.matrices
    ]
    found = [(linear.name, linear.rows, linear.cols, linear.block) for linear in facts.linears]
    assert found == shapes
    assert describe_model(resolve_model(str(tiny_llama_dir))).max_seq_len < NO_LIMIT


def test_a_model_loads_for_evaluation(tiny_llama_dir, capfd):
    model = load_model(resolve_model(str(tiny_llama_dir)), torch.bfloat16)
    tokenizer = load_tokenizer(tiny_llama_dir)
    assert model.dtype == torch.bfloat16 and not model.training and not model.config.use_cache
    assert tokenizer("ka lo")["input_ids"][0] == 2
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize(
    ("absent", "remedy"), [("config.json", "no config.json"), ("model.safetensors", "safetensors")]
)
def test_an_incomplete_directory_is_refused(tiny_opt_dir, tmp_path, absent, remedy):
    copy = Path(shutil.copytree(tiny_opt_dir, tmp_path / "copy"))
    (copy / absent).unlink()
    with pytest.raises(ValueError, match=remedy) as caught:
        resolve_model(str(copy))
    assert str(caught.value).startswith("--models ") and "\n" not in str(caught.value)


def test_an_incomplete_set_of_shards_is_refused(tiny_opt_dir, tmp_path):
    copy = Path(shutil.copytree(tiny_opt_dir, tmp_path / "copy"))
    load_model(copy, torch.float32).save_pretrained(copy, max_shard_size="20KB")
    (copy / "model.safetensors").unlink(missing_ok=True)
    assert resolve_model(str(copy)).identity
    next(copy.glob("model-*.safetensors")).unlink()
    with pytest.raises(ValueError, match="not all"):
        resolve_model(str(copy))


def test_pickled_weights_are_not_loaded(tiny_opt_dir, tmp_path):
    copy = Path(shutil.copytree(tiny_opt_dir, tmp_path / "copy"))
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        resolve_model(str(copy))


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "a/b/c"])
def test_an_absent_directory_is_refused(name):
    with pytest.raises(ValueError, match=r"^--models .*no such directory; [^\n]*$"):
        resolve_model(name)


def test_a_revision_of_a_directory_is_refused(tiny_opt_dir):
    with pytest.raises(ValueError, match="no effect"):
        resolve_model(str(tiny_opt_dir), revision="main")


def test_missing_weights_do_not_start_out_random(tiny_opt_dir, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(tiny_opt_dir, tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    weights.pop("model.decoder.layers.1.fc1.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 weights are missing"):
        load_model(copy, torch.float32)


def test_a_missing_tokenizer_is_refused(tiny_opt_dir, tmp_path):
    copy = Path(shutil.copytree(tiny_opt_dir, tmp_path / "copy"))
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="tokenizer"):
        load_tokenizer(copy)


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        (Llama4TextConfig(**LLAMA, num_local_experts=4), "Llama4TextExperts. have a form of their"),
        (BertConfig(), "is an encoder .bert., which sees later tokens"),
        (ViTConfig(), "no causal language model of type 'vit'"),
        (
            MllamaConfig(text_config=LLAMA | {"cross_attention_layers": [1]}),
            "do not run once each, one after another: block 1 did not run",
        ),
        (
            XLMConfig(emb_dim=32, n_layers=2, n_heads=4),
            "were not found: it has 4 lists of 2 modules",
        ),
    ],
    ids=["llama4", "bert", "vit", "mllama", "xlm"],
)
def test_other_architectures_are_refused_in_one_line(tiny_llama_dir, tmp_path, config, remedy):
    copy = Path(shutil.copytree(tiny_llama_dir, tmp_path / "copy"))
    config.save_pretrained(copy)
    with pytest.raises(ValueError, match=remedy) as caught:
        describe_model(resolve_model(str(copy)))
    assert "\n" not in str(caught.value)


def test_unknown_code_and_quantized_weights_are_refused(tiny_llama_dir, tmp_path):
    copy = Path(shutil.copytree(tiny_llama_dir, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    changes = [
        ({"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}, "code of its own"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized"),
    ]
    for change, remedy in changes:
        (copy / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=remedy) as caught:
            describe_model(resolve_model(str(copy)))
        assert "\n" not in str(caught.value)


def test_a_real_model(shared_dir):
    facts = describe_model(resolve_model(str(shared_dir / "models" / "stories260K")))
    assert facts.num_parameters == 260_032 and facts.num_blocks == 5 and facts.max_seq_len == 512


def test_a_checkpoint_survives_loading_and_saving(tiny_llama_dir, tmp_path):
    copy = Path(shutil.copytree(tiny_llama_dir, tmp_path / "copy"))
    settings = json.loads((copy / "generation_config.json").read_text()) | {"eos_token_id": [2, 3]}
    (copy / "generation_config.json").write_text(json.dumps(settings))
    model = load_model(copy, torch.float32)
    model.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert again.generation_config.eos_token_id == [2, 3]
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_a_relative_directory_is_the_same_place_from_anywhere(tiny_opt_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tiny_opt_dir.parent)
    source = resolve_model(tiny_opt_dir.name)
    monkeypatch.chdir(tmp_path)
    assert load_model(source, torch.float32).config.model_type == "opt"
    assert source.identity == resolve_model(str(tiny_opt_dir)).identity
