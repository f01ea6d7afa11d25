"""Training in bf16 leaves a plain float32 model, which nobody sees rounded."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from core.models.loading import load_model
from core.ranks import Ranks
from core.training.mixed_precision import computing_in

RANKS = Ranks.current()
IDS = torch.randint(320, (2, 16), generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["opt", "llama"])
def model(request, tiny_opt_dir, tiny_llama_dir):
    directory = {"opt": tiny_opt_dir, "llama": tiny_llama_dir}[request.param]
    return load_model(directory, torch.float32)


def test_both_models_are_one_memory(model):
    before = {name: param.data_ptr() for name, param in model.named_parameters()}
    with computing_in(model, torch.bfloat16, RANKS) as twin:
        shards = {name: param.to_local() for name, param in twin.named_parameters()}
        assert {name: shard.data_ptr() for name, shard in shards.items()} == before
        assert all(shard.dtype == torch.float32 for shard in shards.values())
    assert {name: param.data_ptr() for name, param in model.named_parameters()} == before
    assert not any(isinstance(param, DTensor) for param in model.parameters())
    assert not dist.is_initialized()


def test_only_the_second_model_computes_on_rounded_weights(model):
    rounded = copy.deepcopy(model)
    for param in rounded.parameters():  # Buffers stay float32: angles of rotary embeddings.
        param.data = param.data.to(torch.bfloat16)
    plain, wanted = model(IDS).logits, rounded(IDS).logits
    with torch.no_grad(), computing_in(model, torch.bfloat16, RANKS) as twin:
        # The weights and hidden states of a bf16 model, bit for bit.
        assert torch.equal(twin(IDS).logits, wanted)
        assert torch.equal(model(IDS).logits, plain)


def test_float32_needs_no_second_model(model):
    with computing_in(model, torch.float32, RANKS) as trainee:
        assert trainee is model


def test_the_values_of_an_error_stay(model):
    with pytest.raises(ArithmeticError), computing_in(model, torch.bfloat16, RANKS) as twin:
        for param in twin.parameters():
            param.data.to_local().fill_(0.5)
        raise ArithmeticError
    assert all(torch.equal(param, torch.full_like(param, 0.5)) for param in model.parameters())
