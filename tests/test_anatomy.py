"""Anatomy found without names: blocks that are called in many ways run one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_outputs import BaseModelOutputWithPast

from core.models.anatomy import AnatomyError, anatomy_of
from core.models.block_check import require_equal_blocks
from core.models.blocks import decoder_blocks, prunable_blocks
from core.models.calls import Calls, logits_after

CPU = torch.device("cpu")
SIZES = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GENERATOR = torch.Generator().manual_seed(0)
BATCHES = [torch.randint(3, 96, size, generator=GENERATOR) for size in ((2, 9), (2, 9), (1, 9))]
TYPES = {
    "gpt2": {},  # Conv1D, arguments by position.
    "gpt_neox": {"intermediate_size": 64},  # Attention and MLP side by side.
    "bloom": {},  # Blocks return tuples.
    "olmo2": {"intermediate_size": 64},  # Norms behind each half alone.
    "gemma3n_text": {  # Arguments depend on the tokens.
        "intermediate_size": 64,
        "head_dim": 8,
        "num_key_value_heads": 2,
        "vocab_size_per_layer_input": 96,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 1,
        "layer_types": ["full_attention", "full_attention"],
        "activation_sparsity_pattern": None,
        "laurel_rank": 4,
    },
}


def model_of(model_type: str, **sizes: object):
    config = AutoConfig.for_model(model_type, **SIZES | TYPES[model_type] | sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for param in model.parameters():
            if param.dim() > 1:
                torch.nn.init.normal_(param, std=0.2)
    return model


@torch.no_grad()
def logits_block_by_block(model) -> list[torch.Tensor]:
    """Run all batches through one block after another, as pruning does."""
    calls = Calls(model, CPU)
    hidden = [calls.add(batch) for batch in BATCHES]
    for index, block in enumerate(decoder_blocks(model)):
        for i, states in enumerate(hidden):
            hidden[i] = calls.run(block, index, i, states)
    return [logits_after(model, *pair) for pair in zip(BATCHES, hidden)]


@pytest.mark.parametrize("model_type", TYPES)
def test_blocks_give_what_the_model_gives(model_type):
    model = model_of(model_type)
    with torch.no_grad():
        wanted = [model(input_ids=batch, use_cache=False).logits for batch in BATCHES]
    assert all(map(torch.equal, logits_block_by_block(model), wanted))
    require_equal_blocks(model, CPU)


def test_arguments_are_kept_once_unless_they_depend_on_tokens():
    assert [Calls(model_of(name), CPU).differ for name in TYPES] == [False] * 4 + [True]


def test_halves_are_found_where_the_residual_stream_is_between_them():
    found = {name: anatomy_of(model_of(name)).blocks[0].mlp_half for name in TYPES}
    assert found["gpt2"] == ("ln_2", "mlp") and found["olmo2"][:1] == ("mlp",)
    assert found["gpt_neox"] == found["bloom"] == ()


def test_state_goes_from_block_to_block():
    model = model_of("olmo2")
    whole = type(model.model.layers[0]).forward

    class Carrying(type(model.model.layers[0])):
        def forward(self, hidden_states, memory=None, **kwargs):
            out = whole(self, hidden_states, **kwargs)
            return (out if memory is None else out + memory), out * 0.5

    class Backbone(type(model.model)):
        def forward(self, input_ids, **kwargs):
            hidden, memory = self.embed_tokens(input_ids), None
            rope = self.rotary_emb(hidden, torch.arange(input_ids.shape[1])[None])
            for layer in self.layers:
                hidden, memory = layer(
                    hidden, memory=memory, position_embeddings=rope, attention_mask=None
                )
            return BaseModelOutputWithPast(self.norm(hidden))

    model.model.__class__ = Backbone
    for layer in model.model.layers:
        layer.__class__ = Carrying
    skeleton = copy.deepcopy(model).to("meta")
    model.anatomy = anatomy_of(skeleton)
    assert model.anatomy.blocks[1].carried == {"memory": 1}
    with torch.no_grad():
        wanted = [model(input_ids=batch, use_cache=False).logits for batch in BATCHES]
    assert all(map(torch.equal, logits_block_by_block(model), wanted))


def test_blocks_that_give_something_else_are_refused():
    model = model_of("olmo2")
    blocks = decoder_blocks(model)
    once = blocks[1].register_forward_hook(lambda *_: once.remove())  # Only the model's own run.
    require_equal_blocks(model, CPU)
    once = blocks[1].register_forward_hook(lambda _, __, out: (once.remove(), out * 2)[1])
    with pytest.raises(AnatomyError, match="give other logits"):
        require_equal_blocks(model, CPU)


def test_linears_that_nothing_calls_and_routers_are_left_out():
    mamba = AutoConfig.for_model(
        "mamba", vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    model = AutoModelForCausalLM.from_config(mamba).eval()
    assert anatomy_of(model).blocks[0].left_out == {"mixer.dt_proj": "not called"}
    names = [name.rpartition(".")[2] for name in prunable_blocks(model)[0].matrices]
    assert names == ["in_proj", "x_proj", "out_proj"]


def test_a_model_whose_tokens_see_later_ones_is_refused():
    for is_decoder in (True, False):
        config = AutoConfig.for_model(
            "bert-generation", **SIZES, intermediate_size=64, is_decoder=is_decoder
        )
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        if is_decoder:
            require_equal_blocks(model, CPU)
            continue
        with pytest.raises(AnatomyError, match="it is an encoder"):
            require_equal_blocks(model, CPU)
