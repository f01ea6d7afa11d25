"""Masked training: exact zeros in weights and moments, one global batch whatever its pieces."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.config import FinetuneConfig
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.ranks import Ranks
from core.training.finetune import finetune_
from core.training.loop import Loop
from core.training.optimizer import BETAS, TrainingError, learning_rate

RANKS = Ranks.current()
CONFIG = FinetuneConfig(lr=1e-3, warmup_frac=0.25)
WINDOWS = torch.randint(320, (11, 24), generator=torch.Generator().manual_seed(0))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["opt", "llama"])
def dense(request, tiny_opt_dir, tiny_llama_dir):
    directory = {"opt": tiny_opt_dir, "llama": tiny_llama_dir}[request.param]
    return load_model(directory, torch.float32)


@pytest.fixture
def model(dense):
    return copy.deepcopy(dense)


def prune_at_random(model, sparsity: float = 0.6) -> dict[str, Tensor]:
    """Random masks of every prunable matrix, their weights zeroed."""
    generator, masks = torch.Generator().manual_seed(1), {}
    for name, matrix in prunable_matrices(model).items():
        masks[name] = torch.rand(matrix.rows, matrix.cols, generator=generator) >= sparsity
        matrix.read().mul_(masks[name])
    return masks


def train(model, masks, windows=WINDOWS, config=CONFIG, **settings):
    return finetune_(model, masks, windows.split(4), config, Loop(RANKS, **settings))


def weights_of(model) -> dict[str, Tensor]:
    return {name: param.detach().clone() for name, param in model.named_parameters()}


class Saver:
    """Stores a checkpoint after every step but the last, as a trial would."""

    def __init__(self, folder):
        self.folder, self.steps = folder, []

    def __call__(self, step, write):
        self.steps.append(step)
        write(self.folder / str(step))

    def tensors(self, step: int) -> dict[str, Tensor]:
        return load_file(self.folder / str(step) / "rank-00000-of-00001.safetensors")


def test_pruned_weights_are_zero_and_survivors_train(model):
    masks = prune_at_random(model)
    before = weights_of(model)
    train(model, masks)
    for name, mask in masks.items():
        weight = model.get_submodule(name).weight
        assert not weight[~mask].any(), name
        # Not all: a unit that ReLU silences on every token has no gradient.
        assert (weight != before[f"{name}.weight"])[mask].float().mean() > 0.5, name


def test_weights_outside_the_masks_train_too(model):
    masks, before = prune_at_random(model), weights_of(model)
    train(model, masks)
    unmasked = [name for name in before if name.removesuffix(".weight") not in masks]
    assert unmasked
    assert all(not torch.equal(before[name], p) for name, p in weights_of(model).items())


@pytest.mark.parametrize("settings", [{}, {"compute_dtype": torch.bfloat16}], ids=["f32", "bf16"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_weights_and_moments_are_zero_after_every_step(model, tmp_path, settings, weight_decay):
    masks, saver = prune_at_random(model), Saver(tmp_path)
    config = FinetuneConfig(lr=1e-2, weight_decay=weight_decay)
    train(model, masks, config=config, save_checkpoint=saver, save_every_seconds=0, **settings)
    assert saver.steps == [1, 2]
    for step in saver.steps:
        tensors = saver.tensors(step)
        for name, mask in masks.items():
            for kind in ("weight", "exp_avg", "exp_avg_sq"):
                tensor = tensors[f"{kind}/{name}.weight"]
                assert not tensor[~mask].any(), (step, kind, name)
                assert tensor[mask].any(), (step, kind, name)


def test_training_lowers_the_loss_on_a_repeated_text(model):
    masks = prune_at_random(model)
    losses = train(model, masks, WINDOWS[:4].repeat(8, 1)).losses
    assert losses[-1] < losses[0] - 0.2


def test_training_equals_a_loop_that_masks_gradients_before_clipping(model):
    # One forward of the whole batch, clipping in force: losses to 1e-5, weights to 1e-3 of the
    # distance that training moved them. Key biases have no true gradient (softmax ignores them);
    # Adam turns their rounding noise into steps, so they are left out.
    masks, config = prune_at_random(model), FinetuneConfig(lr=1e-3, clip_norm=0.5, weight_decay=0.1)
    start, other = weights_of(model), copy.deepcopy(model)
    optimizer = torch.optim.AdamW(other.parameters(), lr=1.0, betas=BETAS, weight_decay=0.1)
    batches, losses = WINDOWS.split(4), []
    for step, ids in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate(step, len(batches), config)
        loss = other(ids, labels=ids).loss
        loss.backward()
        for name, mask in masks.items():
            other.get_submodule(name).weight.grad[~mask] = 0.0
        norm = torch.nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        assert norm > 0.5
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    report = train(model, masks, config=config, micro_batch=3)
    assert report.losses == pytest.approx(losses, rel=1e-5)
    for name, param in other.named_parameters():
        if not name.endswith("k_proj.bias"):
            moved = float((param - start[name]).detach().norm())
            error = float((model.get_parameter(name) - param).detach().norm())
            assert error <= 1e-3 * moved, name


def test_the_micro_batch_changes_nothing_but_rounding(model):
    # Losses to 1e-5 relative.
    masks, losses = prune_at_random(model), []
    for micro_batch in (1, 3, 8):
        report = train(copy.deepcopy(model), masks, micro_batch=micro_batch)
        losses.append(report.losses)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=1e-5)


def test_the_same_training_gives_the_same_bits(model):
    masks, twin = prune_at_random(model), copy.deepcopy(model)
    assert train(model, masks).losses == train(twin, masks).losses
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))


def test_dropout_is_off(model):
    for module in model.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.5
    masks, twin = prune_at_random(model), copy.deepcopy(model.train())
    assert train(model, masks).losses == train(twin, masks).losses


def test_a_resumed_round_gives_the_bits_of_one_that_ran_through(model, tmp_path):
    masks, saver, twin = prune_at_random(model), Saver(tmp_path), copy.deepcopy(model)
    whole = train(model, masks, save_checkpoint=saver, save_every_seconds=0)
    rest = train(twin, masks, resume_from=tmp_path / "2")
    assert rest.steps_resumed == 2 and whole.steps_resumed == 0
    assert rest.losses == whole.losses[2:]
    assert rest.num_tokens == whole.num_tokens
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))


def test_checkpoints_keep_their_distance_in_time(model, tmp_path):
    saver = Saver(tmp_path)
    train(model, {}, save_checkpoint=saver, save_every_seconds=3600)
    assert saver.steps == []


def test_a_checkpoint_that_cannot_wait_is_made_at_the_next_step_that_asks(model, tmp_path):
    saver, answers = Saver(tmp_path), iter([True, False])
    notice = lambda: next(answers)  # noqa: E731
    train(model, {}, save_checkpoint=saver, save_every_seconds=3600, save_now=notice)
    assert saver.steps == [1]


def test_without_masks_the_dense_model_trains(model):
    before = weights_of(model)
    report = train(model, {})
    assert len(report.losses) == 3 and report.num_tokens == WINDOWS.numel()
    assert not any(torch.equal(before[name], p) for name, p in weights_of(model).items())


def test_the_last_batch_may_be_smaller_and_progress_is_reported(model):
    seen = []
    losses = train(model, {}, report=lambda *progress: seen.append(progress)).losses
    assert seen == [(1, 3, losses[0]), (2, 3, losses[1]), (3, 3, losses[2])]


def test_masks_and_windows_are_not_changed(model):
    masks, windows = prune_at_random(model), WINDOWS.clone()
    copies = {name: mask.clone() for name, mask in masks.items()}
    train(model, masks, windows)
    assert torch.equal(windows, WINDOWS)
    assert all(torch.equal(masks[name], copies[name]) for name in masks)


def test_no_gradients_stay_behind(model):
    train(model, {})
    assert all(param.grad is None for param in model.parameters())


def test_a_loss_that_is_not_finite_ends_training_before_a_step(model):
    model.get_input_embeddings().weight.data[5, 3] = torch.inf
    windows, before = torch.full((2, 8), 5), weights_of(model)
    with pytest.raises(TrainingError, match="at step 1; try --finetune.lr 0.0001"):
        train(model, {}, windows)
    assert all(torch.equal(before[name], p) for name, p in weights_of(model).items())


def test_weights_below_float32_are_refused(tiny_opt_dir):
    with pytest.raises(AssertionError, match="fp32"):
        train(load_model(tiny_opt_dir, torch.bfloat16), {})


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_zero():
    # By hand: 10 steps, 2 of warm-up, then 9 equal parts of the way down to zero.
    config = FinetuneConfig(lr=0.9, warmup_frac=0.2)
    rates = [learning_rate(step, 10, config) for step in range(10)]
    expected = [0.45, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 50])
@pytest.mark.parametrize("warmup_frac", [0.0, 0.1, 1.0])
def test_the_learning_rate_peaks_once_and_stays_positive(num_steps, warmup_frac):
    config = FinetuneConfig(lr=1.0, warmup_frac=warmup_frac)
    rates = [learning_rate(step, num_steps, config) for step in range(num_steps)]
    assert max(rates) == pytest.approx(1.0)
    assert all(rate > 0 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
