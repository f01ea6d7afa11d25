"""One contract for every objective and every choice of what trains, on one rank.

`test_recovery_ranks.py` holds the same combinations to what two ranks give.
"""

import copy

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, OPTConfig

from core.config import FinetuneConfig
from core.measures.sparsity import measure
from core.models.blocks import decoder_blocks, prunable_matrices
from core.models.calls import block_inputs, run_block
from core.models.loading import load_model
from core.models.saving import save_model
from core.ranks import Ranks
from core.training import lora
from core.training.finetune import finetune_
from core.training.loop import Loop
from core.training.losses import Distillation, token_losses
from core.training.optimizer import MaskedAdamW, TrainingError

RANKS = Ranks.current()
WINDOWS = torch.randint(320, (10, 24), generator=torch.Generator().manual_seed(0))
OBJECTIVES = {
    "next_token": {},
    "distill": {"distill": True},
    "reconstruct": {"objective": "reconstruct"},
}
TRAINABLES = ("all", "bias_norm", "masklora")
CASES = [(objective, trainable) for objective in OBJECTIVES for trainable in TRAINABLES]

pytestmark = pytest.mark.usefixtures("one_thread")
cases = pytest.mark.parametrize(("objective", "trainable"), CASES)


def config_of(objective: str, trainable: str, **changes) -> FinetuneConfig:
    rank = {"lora_rank": 4} if trainable == "masklora" else {}
    settings = {"lr": 3e-3, "trainable": trainable, **rank, **OBJECTIVES[objective]}
    return FinetuneConfig(**{**settings, **changes})


@pytest.fixture(scope="module", params=["opt", "llama"])
def dense(request, tiny_opt_dir, tiny_llama_dir):
    directory = {"opt": tiny_opt_dir, "llama": tiny_llama_dir}[request.param]
    return load_model(directory, torch.float32)


@pytest.fixture
def model(dense):
    return copy.deepcopy(dense)


def prune_at_random(model, sparsity: float = 0.6) -> dict[str, Tensor]:
    generator, masks = torch.Generator().manual_seed(1), {}
    for name, matrix in prunable_matrices(model).items():
        masks[name] = torch.rand(matrix.rows, matrix.cols, generator=generator) >= sparsity
        matrix.read().mul_(masks[name])
    return masks


def train(model, masks, config, dense, windows=WINDOWS, **settings):
    loop = Loop(RANKS, **{"micro_batch": 3, **settings})
    return finetune_(model, masks, windows.split(4), config, loop, teacher=dense)


def weights_of(model) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def names_that_train(model, objective: str, trainable: str) -> set[str]:
    """Return the parameters that a combination may change, from names and shapes alone."""
    names = dict(model.named_parameters())
    pruned = {f"{name}.weight" for name in prunable_matrices(model)}
    if objective == "reconstruct":
        names = {name: p for name, p in names.items() if ".layers." in name}
    if trainable == "all":
        return set(names)
    vectors = {name for name, param in names.items() if param.dim() == 1}
    return vectors | (pruned if trainable == "masklora" else set())


class Watch:
    """Looks at weights, moments and low-rank updates after every optimizer step."""

    def __init__(self, monkeypatch, masks):
        self.steps, self.moments, self.updates = 0, 0, 0
        attached, step, attach = {}, MaskedAdamW.step, lora.attach_

        def note(matrix, *rest):
            attached[matrix.name] = attach(matrix, *rest)
            return attached[matrix.name]

        def watched(optimizer, *args):
            loss = step(optimizer, *args)
            self.steps += 1
            for param, mask in optimizer.trained.masks:
                state = optimizer.optimizer.state[param]
                for tensor in (param, state["exp_avg"], state["exp_avg_sq"]):
                    assert not tensor[~mask].any()
                self.moments += 1
            for name, update in attached.items():
                weight = update.matrix.read()
                if hasattr(update.matrix.module, lora.A):
                    merged = lora.merged(weight, update.a, update.b)
                    assert not merged[~masks[name]].any(), name
                    self.updates += bool((merged != weight).any())
            return loss

        monkeypatch.setattr(MaskedAdamW, "step", watched)
        monkeypatch.setattr(lora, "attach_", note)


class Saver:
    """Stores every checkpoint."""

    def __init__(self, folder):
        self.folder, self.steps = folder, []

    def __call__(self, step, write):
        self.steps.append(step)
        write(self.folder / str(step))


@cases
def test_pruned_weights_and_moments_are_zero_after_every_step(
    dense, model, monkeypatch, objective, trainable
):
    masks = prune_at_random(model)
    watch = Watch(monkeypatch, masks)
    config = config_of(objective, trainable, weight_decay=0.1)
    report = train(model, masks, config, dense)
    measure(model, masks)
    assert watch.steps == len(report.losses) > 0
    assert bool(watch.moments) == (trainable == "all")
    assert bool(watch.updates) == (trainable == "masklora")


@cases
def test_exactly_what_is_named_trains(dense, model, objective, trainable):
    masks, before = prune_at_random(model), weights_of(model)
    train(model, masks, config_of(objective, trainable), dense)
    changed = {n for n, p in weights_of(model).items() if not torch.equal(p, before[n])}
    # Softmax ignores key biases: they may or may not move.
    unsure = {name for name in before if name.endswith("k_proj.bias")}
    assert changed - unsure == names_that_train(model, objective, trainable) - unsure
    assert all(param.requires_grad for param in model.parameters())
    assert set(before) == set(weights_of(model))


@cases
def test_the_loss_falls(dense, model, objective, trainable):
    masks = prune_at_random(model, 0.3)
    windows = WINDOWS[:4].repeat(12, 1)
    losses = train(model, masks, config_of(objective, trainable, lr=1e-2), dense, windows).losses
    # Of each block's halves by itself where these are trained by themselves.
    for start in range(0, len(losses), 12):
        assert losses[start + 11] < losses[start]


@cases
def test_a_resumed_round_gives_the_bits_of_one_that_ran_through(
    dense, model, tmp_path, objective, trainable
):
    masks, saver, config = prune_at_random(model), Saver(tmp_path), config_of(objective, trainable)
    twin = copy.deepcopy(model)
    whole = train(model, masks, config, dense, save_checkpoint=saver, save_every_seconds=0)
    at = saver.steps[0]
    rest = train(twin, masks, config, dense, resume_from=tmp_path / str(at))
    assert rest.steps_resumed == at and rest.losses == whole.losses[at:]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))
    measure(twin, masks)


@cases
def test_saved_and_loaded_again_zeros_and_ties_are_kept(
    dense, model, tmp_path, objective, trainable
):
    masks = prune_at_random(model)
    train(model, masks, config_of(objective, trainable), dense)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    save_model(tmp_path / "ours", model, masks, RANKS)
    model.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        measure(loaded, masks)
        assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name


@cases
def test_micro_batches_and_recomputing_change_nothing_but_rounding(
    dense, model, objective, trainable
):
    # Losses to 1e-5 relative.
    masks, config = prune_at_random(model), config_of(objective, trainable)
    losses = [
        train(copy.deepcopy(model), masks, config, dense, **settings).losses
        for settings in ({}, {"micro_batch": 1}, {"recompute": True})
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


@cases
def test_bfloat16_trains_and_keeps_zeros(dense, model, objective, trainable):
    masks = prune_at_random(model)
    config = config_of(objective, trainable)
    report = train(model, masks, config, dense, compute_dtype=torch.bfloat16)
    measure(model, masks)
    assert all(0 < loss < 50 for loss in report.losses)


@cases
def test_teacher_masks_and_windows_are_not_changed(dense, model, objective, trainable):
    masks, windows, teacher = prune_at_random(model), WINDOWS.clone(), weights_of(dense)
    copies = {name: mask.clone() for name, mask in masks.items()}
    train(model, masks, config_of(objective, trainable), dense, windows)
    assert torch.equal(windows, WINDOWS)
    assert all(torch.equal(masks[name], copies[name]) for name in masks)
    assert all(torch.equal(tensor, teacher[n]) for n, tensor in weights_of(dense).items())
    assert all(param.grad is None for m in (model, dense) for param in m.parameters())


@cases
def test_a_loss_that_is_not_finite_ends_training(dense, model, objective, trainable):
    masks = prune_at_random(model)
    name, matrix = next(iter(prunable_matrices(model).items()))
    matrix.read()[masks[name]] = torch.inf
    with pytest.raises(TrainingError, match="try --finetune.lr"):
        train(model, masks, config_of(objective, trainable), dense)
    # Nothing stays behind: another learning rate may be tried on the same model.
    assert all(param.grad is None for param in model.parameters())
    assert not any("lora" in name for name, _ in model.named_parameters())


# Low-rank updates --------------------------------------------------------------------------------


def test_a_low_rank_update_gives_the_gradients_of_its_formula():
    # float64: 1e-12.
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        tensor = torch.randn(shape, generator=generator, dtype=torch.float64)
        return tensor.requires_grad_()

    x, a, b = draw(2, 5, 8), draw(3, 8), draw(6, 3)
    weight = draw(6, 8).detach() * (torch.rand(6, 8, generator=generator) > 0.5)
    plain = x @ (weight + lora.SCALE * (b @ a) * (weight != 0)).T
    ours = lora.MaskedLowRank.apply(x, weight, a, b, torch.float64)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    by_hand = torch.autograd.grad(plain.square().sum(), (x, a, b))
    for found, wanted in zip(torch.autograd.grad(ours.square().sum(), (x, a, b)), by_hand):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_merged_model_predicts_what_the_trained_one_did(model, dense):
    # float32: 1e-5.
    name, matrix = next(iter(prunable_matrices(model).items()))
    linear = model.get_submodule(name)
    x = torch.randn(4, matrix.cols)
    update = lora.attach_(matrix, 4, torch.float32)
    torch.testing.assert_close(linear(x), torch.nn.functional.linear(x, linear.weight, linear.bias))
    linear.lora_B.data.normal_()
    before = linear(x)
    update.merge_()
    update.detach_()
    torch.testing.assert_close(linear(x), before, rtol=1e-5, atol=1e-5)


# Distillation ------------------------------------------------------------------------------------


def test_distillation_is_the_mix_of_both_losses(dense, model):
    # By the formula in float64: 1e-5 relative.
    prune_at_random(model)
    logits = model(WINDOWS[:2]).logits.detach()
    distill = Distillation(dense, temperature=3.0, mix=0.25)
    ours = (logits[:, :-1].double() / 3).softmax(-1)
    theirs = (dense(WINDOWS[:2]).logits[:, :-1].detach().double() / 3).softmax(-1)
    divergence = (theirs * (theirs.log() - ours.log())).sum(-1)
    wanted = 0.75 * token_losses(logits, WINDOWS[:2]) + 0.25 * 9 * divergence
    torch.testing.assert_close(
        distill(logits, WINDOWS[:2]).double(), wanted, rtol=1e-5, atol=1e-6, check_dtype=False
    )


# Reconstruction ----------------------------------------------------------------------------------

SHAPE = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GEMMA = {"intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "opt-350m": OPTConfig(
        **SHAPE, ffn_dim=64, word_embed_proj_dim=16, do_layer_norm_before=False, init_std=0.2
    ),
    "gemma2": Gemma2Config(**SHAPE, **GEMMA),
    "gemma3": Gemma3TextConfig(**SHAPE, **GEMMA),
}


@pytest.fixture(scope="module", params=["opt", "llama", *FAMILIES])
def family(request, tiny_opt_dir, tiny_llama_dir, make_model_dir):
    ready = {"opt": tiny_opt_dir, "llama": tiny_llama_dir}
    directory = ready.get(request.param) or make_model_dir(FAMILIES[request.param])
    return load_model(directory, torch.float32)


def test_reconstruction_brings_every_block_nearer_to_the_dense_one(family):
    model = copy.deepcopy(family)
    masks = prune_at_random(model, 0.3)
    windows = WINDOWS[:4].repeat(20, 1)

    def error() -> list[float]:
        found = []
        (ours, kwargs), (theirs, _) = (block_inputs(m, WINDOWS[:4]) for m in (model, family))
        for index, blocks in enumerate(zip(decoder_blocks(model), decoder_blocks(family))):
            with torch.no_grad():
                ours = run_block(blocks[0], ours, kwargs[index])
                theirs = run_block(blocks[1], theirs, kwargs[index])
            found.append(((ours - theirs).square().sum() / theirs.square().sum()).item())
        return found

    before = error()
    train(model, masks, config_of("reconstruct", "all", lr=1e-2), family, windows)
    assert all(after < 0.9 * start for start, after in zip(before, error()))


def test_the_dense_model_has_nothing_to_reconstruct(dense, model):
    before = weights_of(model)
    report = train(model, {}, config_of("reconstruct", "all"), dense)
    assert not any(report.losses)
    assert all(torch.equal(before[name], p) for name, p in weights_of(model).items())


def test_halves_train_their_own_matrices_only_once_a_window(dense, model):
    report = train(model, prune_at_random(model), config_of("reconstruct", "all"), dense)
    blocks = len(decoder_blocks(model))
    assert len(report.losses) == blocks * 2 * 3 and report.num_tokens == WINDOWS.numel()
