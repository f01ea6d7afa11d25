"""Routers and gates, which only an option prunes: counts, masks, training, files, the dry run."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from core.activations import Calibration
from core.config import FinetuneConfig, PruneConfig
from core.measures.sparsity import measure
from core.models.anatomy import anatomy_of
from core.models.blocks import decoder_blocks, prunable_matrices
from core.models.facts import Linear, ModelFacts
from core.models.loading import load_model, open_model
from core.models.mask_files import MASKS_FILE, load_masks
from core.models.model_writer import ModelWriter
from core.models.residence import Streamed
from core.models.saving import save_model
from core.pruners import make_pruner
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.training.finetune import finetune_
from core.training.loop import Loop
from orchestrator.dry_run import matrix_lines
from tests.tiny_types import config_of, model_of

RANKS = Ranks.current()
ROUTERS = {
    "mixtral": {"mlp.gate"},
    "qwen2_moe": {"mlp.gate", "mlp.shared_expert_gate"},
    "gpt_oss": {"mlp.router"},
    "afmoe": {"mlp.router.gate"},
}
"""Routers and gates in the last block of each type."""
WINDOWS = torch.randint(3, 100, (6, 16), generator=torch.Generator().manual_seed(3))
CALIBRATION = Calibration(WINDOWS, micro_batch=4)
ON = PruneConfig(routers=True)
pytestmark = pytest.mark.usefixtures("one_thread")


def routers_of(model) -> dict[str, torch.Tensor]:
    """The weights of routers and gates by name."""
    usual = prunable_matrices(model)
    return {n: m.read() for n, m in prunable_matrices(model, True).items() if n not in usual}


@pytest.mark.parametrize("model_type", ROUTERS)
def test_routers_are_found_and_left_out_by_default(model_type):
    model = model_of(config_of(model_type))
    last = len(decoder_blocks(model)) - 1
    path = f"{anatomy_of(model).path}.{last}."
    found = {name.removeprefix(path) for name in routers_of(model) if name.startswith(path)}
    assert found == ROUTERS[model_type]
    before = copy.deepcopy(routers_of(model))
    masks = prune_(model, make_pruner("magnitude", PruneConfig()), Target(0.5), RANKS).masks
    assert not set(masks) & set(before)
    assert all(torch.equal(now, before[name]) for name, now in routers_of(model).items())


@pytest.mark.parametrize("target", [Target(0.3), Target.structured("2:4")], ids=str)
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "alps"])
@pytest.mark.parametrize("model_type", ["qwen2_moe", "gpt_oss"])
def test_the_option_prunes_them_to_the_exact_count(model_type, method, target):
    model = model_of(config_of(model_type))
    report = prune_(model, make_pruner(method, ON), target, RANKS, CALIBRATION)
    found = measure(model, report.masks)
    routers = routers_of(model)
    assert set(report.masks) == set(found.total) == set(prunable_matrices(model, True))
    for name, weight in routers.items():
        rows, cols = weight.shape
        by_row = method == "wanda" and target.structure is None
        count = rows * round(0.3 * cols) if by_row else round(target.sparsity * weight.numel())
        assert found.pruned[name] == int((weight == 0).sum()) == count


def test_a_router_is_pruned_by_what_it_reads():
    model = model_of(config_of("mixtral"))
    gate, seen = decoder_blocks(model)[0].mlp.gate, []
    weight = gate.weight.detach().clone()
    hook = gate.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        model(input_ids=WINDOWS, use_cache=False)
    hook.remove()
    scores = weight.double().abs() * torch.cat(seen).double().square().sum(0).sqrt()
    pruned = scores.topk(32, dim=1, largest=False).indices
    wanted = torch.ones_like(scores, dtype=torch.bool).scatter_(1, pruned, False)
    done = prune_(model, make_pruner("wanda", ON), Target(0.5), RANKS, CALIBRATION)
    assert torch.equal(done.masks["model.layers.0.mlp.gate"], wanted)
    assert torch.equal(gate.weight, weight * wanted)


@pytest.mark.parametrize("settings", [{}, {"objective": "reconstruct"}], ids=str)
def test_training_keeps_their_zeros_and_files_have_them(settings, tmp_path):
    model = model_of(config_of("qwen2_moe"))
    dense = copy.deepcopy(model)
    masks = prune_(model, make_pruner("magnitude", ON), Target(0.5), RANKS).masks
    before = {name: weight.clone() for name, weight in routers_of(model).items()}
    config = FinetuneConfig(lr=1e-2, **settings)
    finetune_(model, masks, WINDOWS.split(3), config, Loop(RANKS, micro_batch=2), dense)
    assert measure(model, masks).sparsity == 0.5
    for name, weight in routers_of(model).items():
        assert torch.equal(weight != 0, masks[name]) and not torch.equal(weight, before[name])
    save_model(tmp_path, model, masks, RANKS)
    again = routers_of(load_model(tmp_path, torch.float32))
    assert all(torch.equal(again[name], weight) for name, weight in routers_of(model).items())
    assert measure(load_model(tmp_path, torch.float32), load_masks(tmp_path / MASKS_FILE))


def test_a_streamed_model_has_the_same_routers(make_model_dir, tmp_path):
    directory = make_model_dir(config_of("mixtral"))
    whole, files = load_model(directory, torch.float32), open_model(directory, torch.float32)
    place = Streamed(files, RANKS)
    place.write_to(ModelWriter(tmp_path, files.model, routers=True))
    wanted, found = (
        prune_(model, make_pruner("sparsegpt", ON), Target(0.5), RANKS, CALIBRATION).masks
        for model in (whole, files.model)
    )
    assert set(wanted) == set(found) and all(torch.equal(wanted[n], found[n]) for n in wanted)
    assert measure(files.model, found) == measure(whole, wanted)


def test_the_dry_run_lists_them_and_says_which_cannot_be_pruned():
    usual = tuple(Linear(f"layers.{b}.o_proj", 8, 8, b, "") for b in range(2))
    gates = tuple(Linear(f"layers.{b}.gate", 4, 8, b, "") for b in range(2))
    left_out = {one.name: "router" for one in gates}
    facts = ModelFacts("m", "any", 2, 8, 16, 32, "float32", 512, usual, left_out, True, gates)
    assert matrix_lines(facts) == [
        "  prunes 2 matrices: 2 o_proj",
        "  leaves out 2 matrices: 2 gate (router)",
    ]
    assert matrix_lines(facts, routers=True) == ["  prunes 4 matrices: 2 o_proj, 2 gate"]
    assert matrix_lines(replace(facts, routers=gates[:1]), routers=True) == [
        "  prunes 3 matrices: 2 o_proj, 1 gate",
        "  leaves out 1 matrices: 1 gate (router)",
        "  --prune.routers cannot prune 1 of these: no pass calls their module",
    ]


def test_a_router_that_no_pass_calls_as_a_module_cannot_be_pruned():
    facts = anatomy_of(model_of(config_of("longcat_flash"))).blocks[0]
    assert facts.left_out["mlp.router.classifier"] == "router" and not facts.routers
