"""Two gloo processes prune and train mixtures of experts as one does; files and streams keep them.

Three experts do not split evenly over two ranks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import two_ranks
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GptOssConfig, MixtralConfig

from core.activations import Calibration
from core.config import FinetuneConfig, PruneConfig
from core.finished_blocks import Resumption, block_file, load_block, save_blocks
from core.joint_config import JointConfig
from core.measures.sparsity import measure
from core.models.blocks import prunable_matrices
from core.models.loading import load_model, open_model
from core.models.model_writer import ModelWriter
from core.models.residence import Streamed
from core.models.saving import save_model
from core.models.sharding import shard_
from core.parallel import whole
from core.pruners import make_pruner
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.training.elsa import Aim, elsa_
from core.training.finetune import finetune_
from core.training.loop import Loop

SHAPE = {"vocab_size": 321, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "intermediate_size": 24, "initializer_range": 0.2}
SHAPE |= {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8}
CONFIGS = {
    "mixtral": MixtralConfig(**SHAPE),
    "gpt_oss": GptOssConfig(**SHAPE, rope_scaling=None, sliding_window=5),
}
TRAINED = {
    "all": {"trainable": "all"},
    "bias_norm": {"trainable": "bias_norm"},
    "reconstruct": {"objective": "reconstruct"},
}
WINDOWS = torch.randint(320, (7, 24), generator=torch.Generator().manual_seed(0))
BATCHES = torch.randint(320, (15, 24), generator=torch.Generator().manual_seed(1)).split(5)


def sharded(folder: Path, family: str, ranks: Ranks):
    model = load_model(folder / family, torch.float32)
    shard_(model, ranks)
    return model


def full(model) -> dict[str, torch.Tensor]:
    return {name: whole(param.detach()).clone() for name, param in model.named_parameters()}


def prune(model, method: str, target: Target, ranks: Ranks, **settings):
    calibration = Calibration(WINDOWS, micro_batch=2, **settings)
    return prune_(model, make_pruner(method, PruneConfig()), target, ranks, calibration)


def pruned(folder: Path, family: str, ranks: Ranks, out: Path) -> dict[str, Any]:
    """Prune, keep the finished blocks, save the model."""
    model, blocks = sharded(folder, family, ranks), []
    report = prune(
        model, "sparsegpt", Target(0.5), ranks, resumption=Resumption(keep=blocks.append)
    )
    (out / f"{family}-blocks").mkdir(exist_ok=True)
    save_blocks(out / f"{family}-blocks", blocks, ranks)
    save_model(out / f"{family}-model", model, report.masks, ranks)
    return {
        "masks": dict(report.masks),
        "tokens": report.expert_tokens,
        "weights": full(model),
        "sparsity": measure(model, report.masks).sparsity,
    }


def trained(folder: Path, family: str, ranks: Ranks, settings: dict[str, Any]) -> dict[str, Any]:
    """Train what magnitude left."""
    model, dense = sharded(folder, family, ranks), sharded(folder, family, ranks)
    masks = prune(model, "magnitude", Target(0.6), ranks).masks
    config, loop = FinetuneConfig(lr=1e-3, **settings), Loop(ranks, micro_batch=2)
    report = finetune_(model, masks, BATCHES, config, loop, dense)
    for name, matrix in prunable_matrices(model).items():
        assert not matrix.part()[~matrix.cut(masks[name])].any(), name
    sparsity = measure(model, masks).sparsity
    return {"losses": report.losses, "weights": full(model), "sparsity": sparsity}


def joined(folder: Path, family: str, ranks: Ranks) -> dict[str, Any]:
    """Train a dense model until it has a mask."""
    model = sharded(folder, family, ranks)
    aim = Aim(Target.structured("2:4"), FinetuneConfig(lr=1e-3), JointConfig())
    report = elsa_(model, {}, BATCHES, aim, Loop(ranks, micro_batch=2))
    assert measure(model, report.masks).sparsity == 0.5
    return {"losses": report.losses, "masks": dict(report.masks)}


def scenario(ranks: Ranks, out: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for family in CONFIGS:
        found[family, "pruned"] = pruned(out.parent, family, ranks, out)
        for name, settings in TRAINED.items():
            found[family, name] = trained(out.parent, family, ranks, settings)
        found[family, "joined"] = joined(out.parent, family, ranks)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixtures")
    return two_ranks.compare(__file__, path, CONFIGS, scenario)


@pytest.fixture(scope="module")
def results(folder):
    return [torch.load(folder / f"ranks-{n}" / "rank-0.pt") for n in (1, 2)]


@pytest.mark.parametrize("family", CONFIGS)
def test_masks_and_tokens_of_experts_equal_those_of_one_rank(results, family):
    one, two = (found[family, "pruned"] for found in results)
    assert one["tokens"] == two["tokens"]
    assert sum(one["tokens"].values()) == 2 * 2 * WINDOWS.numel()
    assert one["sparsity"] == two["sparsity"] == 0.5
    # Statistics differ by the order of float32 sums: near ties may flip 0.1 % of the masks.
    differing = sum(int((m != two["masks"][name]).sum()) for name, m in one["masks"].items())
    assert differing <= 1e-3 * sum(mask.numel() for mask in one["masks"].values())


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("kind", TRAINED)
def test_training_equals_that_of_one_rank_with_exact_zeros(results, family, kind):
    one, two = (found[family, kind] for found in results)
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-4)
    assert one["sparsity"] == two["sparsity"] == pytest.approx(0.6, abs=1e-3)
    for name, weight in one["weights"].items():
        assert torch.allclose(weight, two["weights"][name], rtol=0, atol=2e-4), name


@pytest.mark.parametrize("family", CONFIGS)
def test_joint_training_gives_every_expert_its_groups(results, family):
    one, two = (found[family, "joined"] for found in results)
    assert one["losses"] == pytest.approx(two["losses"], rel=1e-4)
    for masks in (one["masks"], two["masks"]):
        assert all((mask.view(len(mask), -1, 4).sum(2) == 2).all() for mask in masks.values())


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("world", [1, 2])
def test_saved_models_and_blocks_are_read_again(results, folder, family, world):
    out, wanted = folder / f"ranks-{world}", results[world - 1][family, "pruned"]
    for again in (
        load_model(out / f"{family}-model", torch.float32),
        AutoModelForCausalLM.from_pretrained(out / f"{family}-model", dtype=torch.float32),
    ):
        found = dict(again.named_parameters())
        assert all(torch.equal(found[name], weight) for name, weight in wanted["weights"].items())
    matrices = prunable_matrices(again)
    for index in range(2):
        block = load_block(block_file(out / f"{family}-blocks", index))
        assert block.expert_tokens.items() <= wanted["tokens"].items()
        for name, read in block.weights.items():
            assert torch.equal(read(), matrices[name].read()), name


def test_files_have_a_tensor_for_each_expert_matrix(folder):
    with safe_open(folder / "ranks-2" / "mixtral-model" / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if ".layers.0." in name and "experts" in name]  # noqa: SIM118
    assert len(names) == 3 * 3 and all(name.split(".")[-3] in "012" for name in names)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_streamed_mixture_is_pruned_as_one_in_memory(folder, results, family, tmp_path):
    files = open_model(folder / family, torch.float32)
    place = Streamed(files, Ranks.current())
    place.write_to(ModelWriter(tmp_path, files.model))
    report = prune(files.model, "sparsegpt", Target(0.5), Ranks.current())
    place.finish(files.model)
    wanted = results[0][family, "pruned"]
    assert all(torch.equal(report.masks[name], mask) for name, mask in wanted["masks"].items())
    files.model.config.save_pretrained(tmp_path)
    again = dict(load_model(tmp_path, torch.float32).named_parameters())
    assert all(torch.equal(again[name], weight) for name, weight in wanted["weights"].items())
