"""Mixtures of experts against an independent solution: expert by expert, token by token, float64.

The tokens of each expert come from a loop over what the router chose. The solution knows only how
transformers lays out the parameters of each type, not how `core` finds them.
"""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor

from core.activations import Calibration
from core.calibration_config import ExpertTokens
from core.config import PruneConfig
from core.expert_windows import Windows
from core.measures.sparsity import measure
from core.models.blocks import decoder_blocks, prunable_blocks, prunable_matrices
from core.pruners import make_pruner
from core.pruners.pruner import PruningError
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from tests.test_sparsegpt import dense_surgeon
from tests.tiny_types import config_of, model_of

RANKS = Ranks.current()
TYPES = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss"]
TYPES += ["granitemoe"]
WINDOWS = torch.randint(3, 100, (6, 16), generator=torch.Generator().manual_seed(3))
CALIBRATION = Calibration(WINDOWS, micro_batch=4)
ROUTED_ONLY = ExpertTokens(pseudo_tokens=0.0)
ALL = ExpertTokens(True, 0.0)
pytestmark = pytest.mark.usefixtures("one_thread")


def gate_and_up(model_type: str, experts, expert: int) -> tuple[Tensor, Tensor]:
    """The matrices [out, in] of an expert that read the input of the layer."""
    fused = experts.gate_up_proj[expert].detach()
    if model_type == "gpt_oss":  # [in, out], one output of the gate, one of the other, in turns
        return fused[:, 0::2].T, fused[:, 1::2].T
    middle = len(fused) // 2
    return fused[:middle], fused[middle:]


def down(model_type: str, experts, expert: int) -> Tensor:
    weight = experts.down_proj[expert].detach()
    return weight.T if model_type == "gpt_oss" else weight


def hidden_of(model_type: str, experts, expert: int, x: Tensor) -> Tensor:
    """Return the input of the last matrix of an expert for some tokens, in float64."""
    one, other = (x @ w.double().T for w in gate_and_up(model_type, experts, expert))
    if model_type != "gpt_oss":
        return torch.nn.functional.silu(one) * other
    bias = experts.gate_up_proj_bias[expert].detach().double()
    one, other = one + bias[0::2], other + bias[1::2]
    one, other = one.clamp(max=7.0), other.clamp(-7.0, 7.0)
    return (other + 1) * one * torch.sigmoid(1.702 * one)


def seen_by_experts(model, index: int):
    """The experts of a block, what they read, and the experts of each token; None without any."""
    block = decoder_blocks(model)[index]
    experts = next((m for m in block.modules() if type(m).__name__.endswith("Experts")), None)
    if experts is None:
        return None
    calls = []
    hook = experts.register_forward_pre_hook(lambda _, args: calls.append(args[:2]))
    with torch.no_grad():
        for batch in WINDOWS.split(4):
            model(input_ids=batch, use_cache=False)
    hook.remove()
    hidden, chosen = (torch.cat(list(each)) for each in zip(*calls))
    return experts, hidden.double(), chosen


def hessian_of(x: Tensor, everything: Tensor, pseudo: float) -> Tensor:
    """H of the routed tokens x, and of pseudo-tokens with the mean of all tokens."""
    count = pseudo * x.shape[1]
    products = x.T @ x + count / len(everything) * everything.T @ everything
    return 2 / (len(x) + count) * products


def solutions(model_type: str, model, index: int, tokens: ExpertTokens):
    """Yield the end of the name, the weight and H of each expert matrix of a block."""
    found = seen_by_experts(model, index)
    if found is None:
        return
    experts, hidden, chosen = found
    for expert in range(len(experts.down_proj)):
        rows = [t for t in range(len(hidden)) if expert in chosen[t].tolist()]
        x = hidden if tokens.all_experts else hidden[rows]
        H = hessian_of(x, hidden, tokens.pseudo_tokens)
        for name, weight in zip(("gate_proj", "up_proj"), gate_and_up(model_type, experts, expert)):
            yield f"{expert}.{name}", weight, H
        x = hidden_of(model_type, experts, expert, x)
        # About eight tokens for each input: with 96 tokens and 32 inputs, all of them.
        everything = hidden_of(model_type, experts, expert, hidden)
        H = hessian_of(x, everything, tokens.pseudo_tokens)
        yield f"{expert}.down_proj", down(model_type, experts, expert), H


def wanda(weight: Tensor, H: Tensor, sparsity: float) -> tuple[Tensor, Tensor]:
    scores = weight.double().abs() * H.diagonal().sqrt()
    count = round(sparsity * weight.shape[1])
    mask = torch.ones_like(scores, dtype=torch.bool)
    mask.scatter_(1, scores.topk(count, dim=1, largest=False).indices, False)
    return weight.double() * mask, mask


def surgeon(weight: Tensor, H: Tensor, sparsity: float) -> tuple[Tensor, Tensor]:
    return dense_surgeon(weight.double(), H, 128, sparsity)


SOLVERS = {"wanda": wanda, "sparsegpt": surgeon}
CASES = [(kind, "sparsegpt", ExpertTokens()) for kind in TYPES]
CASES += [(kind, "wanda", ExpertTokens()) for kind in ("qwen3_moe", "gpt_oss")]
CASES += [(kind, "sparsegpt", ALL) for kind in ("qwen3_moe", "gpt_oss")]
CASES += [("qwen3_moe", "sparsegpt", ROUTED_ONLY), ("mixtral", "wanda", ALL)]


@pytest.mark.parametrize(("model_type", "method", "tokens"), CASES, ids=str)
def test_each_expert_is_pruned_as_by_itself(model_type, method, tokens):
    model = model_of(config_of(model_type))
    dense = copy.deepcopy(model)
    calibration = Calibration(WINDOWS, micro_batch=4, experts=tokens)
    done = prune_(model, make_pruner(method, PruneConfig()), Target(0.5), RANKS, calibration)
    compared = 0
    for block in prunable_blocks(model):
        # Block by block on the outputs of the pruned blocks: a dense block after these.
        mixed = copy.deepcopy(dense)
        for name, matrix in prunable_matrices(mixed).items():
            if matrix.block < block.index:
                matrix.write_(prunable_matrices(model)[name].read())
        for end, weight, H in solutions(model_type, mixed, block.index, tokens):
            name = next(name for name in block.matrices if name.endswith(f"experts.{end}"))
            expected, mask = SOLVERS[method](weight, H, 0.5)
            assert torch.equal(done.masks[name], mask), name
            found, most = block.matrices[name].read().double(), 1e-4 * expected.abs().max()
            assert torch.allclose(found, expected, rtol=0, atol=float(most)), name
            compared += 1
    assert compared >= 2 * 4 * 3
    report = measure(model, done.masks)
    experts = [name for name in report.total if ".experts." in name]
    assert len(experts) == compared
    assert all(report.pruned[name] * 2 == report.total[name] for name in experts)


@pytest.mark.parametrize("model_type", TYPES)
def test_routers_and_shared_gates_are_never_pruned(model_type):
    model = model_of(config_of(model_type))
    before = {name: param.clone() for name, param in model.named_parameters()}
    pruned = {one.parameter_name for one in prunable_matrices(model).values()}
    prune_(model, make_pruner("magnitude", PruneConfig()), Target(0.5), RANKS)
    pattern = r"(gate|router)\.(layer\.)?weight|shared_expert_gate"
    routers = [name for name in before if re.search(pattern, name)]
    assert routers
    for name, param in model.named_parameters():
        assert torch.equal(param, before[name]) == (name not in pruned), name
    assert not pruned & set(routers)


def test_sampled_tokens_lie_at_the_same_places_of_every_window():
    windows = Windows(count=6, seq_len=16)
    assert [windows.spacing(wanted) for wanted in (1, 32, 48, 96, 1000)] == [16, 3, 2, 1, 1]
    assert windows.num_tokens(3) == 36
    places = windows.places(32, 3, RANKS.device).tolist()
    assert places == [0, 3, 6, 9, 12, 15, 16, 19, 22, 25, 28, 31]


def test_a_report_tells_the_tokens_of_each_expert():
    model = model_of(config_of("qwen3_moe"))
    _, _, chosen = seen_by_experts(model, 0)
    wanted = {f"model.layers.0.mlp.experts.{e}": int((chosen == e).sum()) for e in range(4)}
    for tokens in (ExpertTokens(), ALL):
        calibration = Calibration(WINDOWS, micro_batch=4, experts=tokens)
        pruner = make_pruner("wanda", PruneConfig())
        done = prune_(copy.deepcopy(model), pruner, Target(0.5), RANKS, calibration)
        first = {path: n for path, n in done.expert_tokens.items() if ".layers.0." in path}
        assert first == wanted
        assert sum(done.expert_tokens.values()) == 3 * 2 * WINDOWS.numel()


def test_an_expert_without_tokens_is_pruned_by_all_tokens_or_fails_in_one_line():
    model = model_of(config_of("mixtral"))
    for block in decoder_blocks(model):
        block.mlp.gate.register_forward_hook(
            lambda _, args, out: (out[0], out[1], out[2].masked_fill(out[2] == 1, 0))
        )
    pruner = make_pruner("sparsegpt", PruneConfig())
    calibration = Calibration(WINDOWS, micro_batch=4, experts=ROUTED_ONLY)
    with pytest.raises(PruningError, match="experts.1: the router sent it no .*all-experts") as e:
        prune_(copy.deepcopy(model), pruner, Target(0.5), RANKS, calibration)
    assert "\n" not in str(e.value)
    done = prune_(model, pruner, Target(0.5), RANKS, CALIBRATION)
    assert done.expert_tokens["model.layers.0.mlp.experts.1"] == 0
    assert measure(model, done.masks).of("model.layers.0.mlp.experts.1.down_proj") == 0.5
