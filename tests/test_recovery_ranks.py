"""Two gloo processes train as one does, for every objective and every choice of what trains.

`scenario` runs as `two_ranks.py` says; the tests compare what one rank and two found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import two_ranks
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig

from core.config import FinetuneConfig, PruneConfig
from core.measures.sparsity import measure
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.models.mask_files import load_masks
from core.models.matrices import Matrix
from core.models.saving import save_model
from core.models.sharding import shard_
from core.parallel import local, whole
from core.pruners import PRUNERS
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.training import lora
from core.training.finetune import finetune_
from core.training.loop import Loop
from core.training.optimizer import MaskedAdamW
from core.training.reconstruction import Chain

STEPS = 8
# Odd sizes: neither 321 and 61 rows nor the windows of a batch split evenly over two ranks.
SHAPE = {"vocab_size": 321, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "opt-350m": OPTConfig(
        **SHAPE, ffn_dim=61, word_embed_proj_dim=16, do_layer_norm_before=False, init_std=0.2
    ),
    "llama": LlamaConfig(
        **SHAPE,
        intermediate_size=60,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=True,
    ),
}
OBJECTIVES = {
    "next_token": {},
    "distill": {"distill": True},
    "reconstruct": {"objective": "reconstruct"},
}
TRAINABLES = ("all", "bias_norm", "masklora")
CASES = [("opt-350m", objective, trainable) for objective in OBJECTIVES for trainable in TRAINABLES]
CASES += [("llama", *pair) for pair in zip(OBJECTIVES, ("masklora", "bias_norm", "all"))]

OFFLOADED = [
    ("opt-350m", "next_token", "all"),
    ("opt-350m", "distill", "masklora"),
    ("llama", "reconstruct", "all"),
]
"""Cases trained again with shards in host memory: here the same memory, other code."""


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(320, shape, generator=torch.Generator().manual_seed(seed))


# What every rank does ----------------------------------------------------------------------------


def watch_zeros(masks: dict[str, Tensor], matrices: dict[str, Matrix], seen: list[int]) -> None:
    """From now on asserts after each step that this rank's parts are zero where masked."""
    step, attach, attached = STEP, ATTACH, {}

    def note(matrix, *rest):
        attached[matrix.name] = attach(matrix, *rest)
        return attached[matrix.name]

    def watched(optimizer, *args):
        loss = step(optimizer, *args)
        for name, matrix in matrices.items():
            assert not local(matrix.read())[~matrix.cut(masks[name])].any(), name
        for param, mask in optimizer.trained.masks:
            for moment in ("exp_avg", "exp_avg_sq"):
                assert not local(optimizer.optimizer.state[param][moment])[~mask].any()
            assert not local(param)[~mask].any()
        for name, update in attached.items():
            matrix = update.matrix
            if hasattr(matrix.module, lora.A):
                merged = lora.merged(local(matrix.read()), update.a, matrix.cut(update.b))
                assert not merged[~matrix.cut(masks[name])].any(), name
        seen.append(1)
        return loss

    MaskedAdamW.step = watched
    lora.attach_ = note


STEP, ATTACH = MaskedAdamW.step, lora.attach_


def train(
    folder: Path,
    case: tuple[str, str, str],
    ranks: Ranks,
    out: Path,
    resume: Path,
    offload: bool = False,
) -> dict[str, Any]:
    """A magnitude-pruned model after `STEPS` steps (of each half where halves are trained)."""
    family, objective, trainable = case
    rank = {"lora_rank": 4} if trainable == "masklora" else {}
    config = FinetuneConfig(lr=1e-3, trainable=trainable, **rank, **OBJECTIVES[objective])
    teacher = load_model(folder / family, torch.float32)
    shard_(teacher, ranks, offload)
    found: dict[str, Any] = {}
    for name, resume_from in (("through", None), ("resumed", resume)):
        if resume_from is not None and not resume_from.exists():
            continue
        model = load_model(folder / family, torch.float32)
        shard_(model, ranks, offload)
        masks = prune_(model, PRUNERS["magnitude"](PruneConfig()), Target(0.6), ranks).masks
        steps: list[int] = []
        saved: list[int] = []
        watch_zeros(masks, prunable_matrices(model), steps)

        def save(step, write, saved: list[int] = saved) -> None:
            # The first checkpoint in the second half; reconstruction has one, between its blocks.
            if not saved and step >= STEPS // 2 and not offload:
                write(out / "-".join(case))
                saved.append(step)

        loop = Loop(
            ranks,
            micro_batch=2,
            resume_from=resume_from,
            save_checkpoint=save if resume_from is None else None,
            save_every_seconds=0,
        )
        batches = tokens(5 * STEPS, 16, seed=2).split(5)
        report = finetune_(model, masks, batches, config, loop, teacher)
        measure(model, masks)
        assert len(steps) == len(report.losses) > 0
        found[name] = {
            "losses": report.losses,
            "at": report.steps_resumed,
            "tied": model.lm_head.weight is model.get_input_embeddings().weight,
            "weights": {n: whole(p.detach()).clone() for n, p in model.named_parameters()},
        }
        if resume_from is None and not offload:
            save_model(out / f"{'-'.join(case)}-model", model, masks, ranks)
    return found


def scenario(ranks: Ranks, out: Path) -> dict[Any, Any]:
    folder, earlier = out.parent, two_ranks.earlier(ranks, out)
    found: dict[Any, Any] = {}
    for case in CASES:
        found[case] = train(folder, case, ranks, out, earlier / "-".join(case))
    for case in OFFLOADED if ranks.size > 1 else ():
        resume = earlier / "-".join(case)
        found["offload", *case] = train(folder, case, ranks, out, resume, offload=True)
    MaskedAdamW.step, lora.attach_ = STEP, ATTACH
    return found


# What comes out ----------------------------------------------------------------------------------

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(one_thread, tmp_path_factory) -> Path:
    return two_ranks.compare(__file__, tmp_path_factory.mktemp("recovery"), CONFIGS, scenario)


@pytest.fixture(scope="module")
def alone(folder) -> dict[Any, Any]:
    return two_ranks.found(folder, 1)[0]


@pytest.fixture(scope="module")
def both(folder) -> list[dict[Any, Any]]:
    return two_ranks.found(folder, two_ranks.WORLD)


cases = pytest.mark.parametrize("case", CASES, ids=["-".join(case) for case in CASES])


@cases
def test_losses_equal_those_of_one_rank(alone, both, case):
    # 1e-4 relative, over 8 steps in float32 (32 where four halves take 8 each).
    one, two = (found[case]["through"]["losses"] for found in (alone, both[0]))
    assert len(one) == STEPS * (4 if case[1] == "reconstruct" else 1)
    assert two == pytest.approx(one, rel=1e-4)
    assert two == both[1][case]["through"]["losses"]


@cases
def test_a_round_resumed_at_another_world_size_goes_on_alike(alone, both, case):
    # Losses to 1e-4 relative of those from which the one rank went on.
    for found in both:
        resumed = found[case]["resumed"]
        assert resumed["at"] > 0
        rest = alone[case]["through"]["losses"][resumed["at"] :]
        assert resumed["losses"] == pytest.approx(rest, rel=1e-4)


@cases
def test_ranks_hold_the_same_weights_and_ties(alone, both, case):
    for name in ("through", "resumed"):
        one, two = (found[case][name] for found in both)
        assert all(torch.equal(t, two["weights"][n]) for n, t in one["weights"].items())
        assert one["tied"] and two["tied"]


@pytest.mark.parametrize("case", OFFLOADED, ids=["-".join(case) for case in OFFLOADED])
@pytest.mark.parametrize("name", ["through", "resumed"])
def test_shards_in_host_memory_train_to_the_same_bits(both, case, name):
    for found in both:
        plain, offloaded = found[case][name], found["offload", *case][name]
        assert offloaded["losses"] == plain["losses"]
        assert all(torch.equal(t, plain["weights"][n]) for n, t in offloaded["weights"].items())


@cases
def test_saved_by_two_ranks_zeros_and_ties_are_kept(folder, both, case):
    directory = folder / "ranks-2" / f"{'-'.join(case)}-model"
    loaded = AutoModelForCausalLM.from_pretrained(directory)
    masks = load_masks(directory / "masks.safetensors")
    assert measure(loaded, masks).sparsity == pytest.approx(0.6, abs=1e-3)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    for name, tensor in both[0][case]["through"]["weights"].items():
        assert torch.equal(loaded.get_parameter(name), tensor), name


def test_windows_of_small_steps_go_to_the_ranks_in_turn():
    """Otherwise the first rank would hold the hidden states of a whole round."""
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"])
    batches = torch.arange(32).view(4, 8).split(1)
    loops = [Loop(Ranks(rank, 2, torch.device("cpu")), micro_batch=8) for rank in range(2)]
    held = [[len(pieces) for pieces in Chain(model, batches, loop).hidden] for loop in loops]
    assert held == [[1, 0, 1, 0], [0, 1, 0, 1]]
