"""ELSA: the paper's updates, exact counts, earlier masks, checkpoints, one result for any ranks."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import two_ranks
from safetensors import safe_open
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, OPTConfig

from core.joint_config import JointConfig
from core.measures.sparsity import assert_growing, measure
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from core.models.sharding import shard_
from core.parallel import whole
from core.ranks import Ranks
from core.targets import Target
from core.training.elsa import Aim, JointReport, elsa_
from core.training.loop import Loop
from core.training.optimizer import BETAS, TrainingError, learning_rate
from core.training.splitting import Splitting
from core.training_config import Training

STEPS = 8
WINDOWS = torch.randint(320, (4 * STEPS, 24), generator=torch.Generator().manual_seed(0))
TRAINING = Training(lr=2e-3, warmup_frac=0.25)
HALF, PAIRS = Target(0.5), Target.structured("2:4")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(tiny_opt_dir):
    return load_model(tiny_opt_dir, torch.float32)


def train(model, target=HALF, masks=None, training=TRAINING, joint=None, **settings) -> JointReport:
    aim = Aim(target, training, joint or JointConfig(penalty=0.1, interval=3))
    loop = Loop(Ranks.current(), **settings)
    return elsa_(model, masks or {}, WINDOWS.split(4), aim, loop)


# The updates, written down once more --------------------------------------------------------------


def largest(scores: Tensor, target: Target) -> Tensor:
    """Mark the survivors of a matrix by sorting all of its scores, or those of each group."""
    if target.structure is None:
        pruned = scores.flatten().argsort(stable=True)[: round(target.sparsity * scores.numel())]
        return (
            torch.ones(scores.numel(), dtype=torch.bool)
            .index_fill(0, pruned, False)
            .view(scores.shape)
        )
    groups = scores.reshape(-1, target.structure.group)
    order = groups.argsort(dim=1, stable=True)[
        :, : target.structure.group - target.structure.survivors
    ]
    return torch.ones_like(groups, dtype=torch.bool).scatter(1, order, False).view(scores.shape)


RISES = {
    "constant": lambda share: 1.0,
    "linear": lambda share: share,
    "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,
    "exponential": lambda share: 0.01 ** (1 - share),
}


def by_the_paper(
    model, target: Target, training: Training, joint: JointConfig
) -> dict[str, Tensor]:
    """Train in float64 by the update equations alone; return the masks."""
    assert joint.interval is not None
    x = {name: model.get_parameter(f"{name}.weight") for name in prunable_matrices(model)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=BETAS, weight_decay=0.0)
    z = {name: w.detach() * largest(w.detach().abs(), target) for name, w in x.items()}
    u = {name: torch.zeros_like(w) for name, w in x.items()}
    batches = WINDOWS.split(4)
    rise = RISES[joint.penalty_schedule]
    before = now = joint.penalty * rise(0.0)

    def score(name: str, goal: Tensor) -> Tensor:
        v = optimizer.state[x[name]]["exp_avg_sq"] if joint.score == "second_moment" else 1.0
        return v * goal.square()

    for t, ids in enumerate(batches, start=1):
        optimizer.param_groups[0]["lr"] = learning_rate(t - 1, len(batches), training)
        model(ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        for name, w in x.items():
            w.grad += now * (w.detach() - z[name] + u[name])
        optimizer.step()
        optimizer.zero_grad()
        if t % joint.interval == 0:
            for name, w in x.items():
                if before != now:
                    u[name] *= before / now
                goal = w.detach() + u[name]
                z[name] = goal * largest(score(name, goal), target)
                u[name] += w.detach() - z[name]
            before, now = now, joint.penalty * rise(t / len(batches))
    masks = {name: largest(score(name, w.detach()), target) for name, w in x.items()}
    for name, w in x.items():
        w.detach().mul_(masks[name])
    return masks


CASES = [
    (HALF, {"penalty_schedule": "constant"}),
    (HALF, {"penalty_schedule": "cosine", "score": "second_moment"}),
    (Target(0.9), {"penalty_schedule": "exponential"}),
    (PAIRS, {"penalty_schedule": "linear"}),
]


@pytest.mark.parametrize(("target", "settings"), CASES)
def test_training_follows_the_papers_updates(model, target, settings):
    joint = JointConfig(penalty=0.3, interval=3, **settings)
    start, other = copy.deepcopy(model), copy.deepcopy(model).double()
    report = train(model, target, joint=joint, micro_batch=3)
    masks = by_the_paper(other, target, TRAINING, joint)
    for name, mask in masks.items():
        assert torch.equal(report.masks[name], mask), name
        ours, theirs, old = (
            one.get_parameter(f"{name}.weight").detach().double() for one in (model, other, start)
        )
        # 1e-3 of the distance that training moved the survivors.
        moved = ((theirs - old) * mask).norm()
        assert moved > 0 and (ours - theirs).norm() <= 1e-3 * moved, name


# What it ends with --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [Target(0.0), Target(0.123), HALF, Target(1.0), PAIRS])
@pytest.mark.parametrize("score", ["magnitude", "second_moment"])
def test_counts_are_exact(model, target, score):
    report = train(model, target, joint=JointConfig(interval=2, score=score))
    found = measure(model, report.masks)
    for name, matrix in prunable_matrices(model).items():
        assert found.pruned[name] == round(target.sparsity * matrix.numel)
        if target.structure is not None:
            assert (report.masks[name].view(-1, 4).sum(1) == 2).all()
    assert report.num_tokens == WINDOWS.numel() and len(report.losses) == STEPS
    assert 0 <= report.dropped_share <= 1


@pytest.mark.parametrize("target", [Target(0.6), Target.structured("1:4"), Target(0.3)])
def test_an_earlier_mask_binds_in_every_step(model, target):
    masks = {}
    for name, matrix in prunable_matrices(model).items():
        columns = torch.arange(matrix.cols) % 4 != 3 if target.structure else None
        draw = torch.rand(matrix.rows, matrix.cols, generator=torch.Generator().manual_seed(1))
        masks[name] = draw > 0.4 if columns is None else columns.expand(matrix.rows, -1).clone()
        matrix.read().mul_(masks[name])
    seen = []

    def look(*_):
        seen.append(all(not m.read()[~masks[n]].any() for n, m in prunable_matrices(model).items()))

    report = train(model, target, masks, report=look)
    assert len(seen) == STEPS and all(seen)
    assert_growing(masks, report.masks)
    for name, mask in report.masks.items():
        count = max(round(target.sparsity * mask.numel()), int((~masks[name]).sum()))
        assert int((~mask).sum()) == count
    assert measure(model, report.masks).num_pruned > 0


def test_earlier_groups_without_room_are_refused(model):
    masks = {n: torch.zeros(m.rows, m.cols).bool() for n, m in prunable_matrices(model).items()}
    with pytest.raises(ValueError, match="--mask-structures 2:4: earlier masks pruned more"):
        train(model, PAIRS, masks)


@pytest.mark.parametrize("settings", [{"objective": "reconstruct"}, {"trainable": "bias_norm"}])
def test_training_without_the_whole_models_loss_or_weights_is_refused(model, settings):
    with pytest.raises(ValueError, match="--finetune.(objective|trainable)"):
        train(model, training=Training(**settings))


def test_a_loss_that_is_not_finite_names_the_rate_of_joint_training(model):
    model.get_input_embeddings().weight.data[int(WINDOWS[0, 0]), 3] = torch.inf
    with pytest.raises(TrainingError, match="at step 1; try --joint.lr 0.0002"):
        train(model)


def test_it_learns_from_the_dense_model_and_in_bf16(model, tiny_opt_dir):
    teacher = load_model(tiny_opt_dir, torch.float32)
    aim = Aim(HALF, Training(lr=1e-3, distill=True, distill_mix=1.0), JointConfig(interval=2))
    loop = Loop(Ranks.current(), compute_dtype=torch.bfloat16)
    report = elsa_(model, {}, WINDOWS.split(4), aim, loop, teacher)
    # The model equals its teacher at first, to the rounding of bf16.
    assert report.losses[0] < 1e-3 < max(report.losses)
    assert measure(model, report.masks).sparsity == pytest.approx(0.5, abs=1e-3)


def test_the_interval_follows_the_number_of_steps():
    config = JointConfig()
    assert [config.steps_between(n) for n in (1, 127, 256, 4096, 10**6)] == [1, 1, 2, 32, 32]
    assert JointConfig(interval=7).steps_between(4096) == 7


@pytest.mark.parametrize("name", RISES)
def test_schedules_end_at_the_penalty(name):
    config = JointConfig(penalty=0.5, penalty_schedule=name)
    found = [config.penalty_at(share) for share in (0, 0.25, 0.5, 1)]
    assert found == pytest.approx([0.5 * RISES[name](share) for share in (0, 0.25, 0.5, 1)])
    assert found == sorted(found) and found[-1] == pytest.approx(0.5)


# Checkpoints --------------------------------------------------------------------------------------


class Saver:
    """Stores a checkpoint after every step but the last, as a trial would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, step, write) -> None:
        write(self.folder / str(step))


@pytest.mark.parametrize("step", [1, 3, 4, 7])
def test_a_resumed_training_gives_the_bits_of_one_that_ran_through(model, tmp_path, step):
    joint = JointConfig(penalty=0.3, interval=3, penalty_schedule="cosine", score="second_moment")
    twin = copy.deepcopy(model)
    calm = train(model, joint=joint, save_checkpoint=Saver(tmp_path), save_every_seconds=0)
    rest = train(twin, joint=joint, resume_from=tmp_path / str(step))
    assert rest.steps_resumed == step and rest.losses == calm.losses[step:]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters()))
    assert all(torch.equal(calm.masks[name], rest.masks[name]) for name in calm.masks)
    with safe_open(tmp_path / str(step) / "rank-00000-of-00001.safetensors", "pt") as file:
        kinds = {key.partition("/")[0] for key in file.keys()}  # noqa: SIM118
        assert kinds == {"weight", "exp_avg", "exp_avg_sq", "sparse", "dual"}
        assert "penalty" in file.metadata()["splitting"]


# Several ranks ------------------------------------------------------------------------------------

# Odd sizes: rows split unevenly, and a matrix of 3 rows leaves a rank without any of three.
SHAPE = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "opt": OPTConfig(**SHAPE, ffn_dim=60, word_embed_proj_dim=32, init_std=0.2),
    "llama": LlamaConfig(
        **SHAPE, intermediate_size=60, num_key_value_heads=1, head_dim=4, initializer_range=0.2
    ),
    "gpt2": GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}
RUNS: dict[str, tuple[str, Target, dict[str, Any]]] = {
    "half": ("opt", Target(0.4321), {"penalty_schedule": "cosine"}),
    "pairs": ("llama", PAIRS, {}),
    # Its matrices are stored [in, out], so groups of inputs lie on two ranks.
    "turned": ("gpt2", PAIRS, {}),
    "second moment": ("llama", Target(0.77), {"score": "second_moment"}),
}


def scenario(ranks: Ranks, out: Path) -> dict[str, Any]:
    """Train every run, then the first again from a checkpoint, as `two_ranks.py` says."""
    found = {}
    for name, (family, target, settings) in RUNS.items():
        aim = Aim(target, TRAINING, JointConfig(penalty=0.3, interval=3, **settings))
        for resume in (None, out / name / "4"):
            model = load_model(out.parent / family, torch.float32)
            shard_(model, ranks)
            saver = Saver(out / name) if resume is None else None
            loop = Loop(ranks, save_checkpoint=saver, save_every_seconds=0, resume_from=resume)
            done = elsa_(model, {}, WINDOWS.split(4), aim, loop)
            weights = {n: whole(p.detach()).clone() for n, p in model.named_parameters()}
            found[name, resume is not None] = {
                "weights": weights,
                "masks": dict(done.masks),
                "losses": done.losses,
                "pruned": measure(model, done.masks).num_pruned,
            }
    return found


@pytest.fixture(scope="module")
def folder(one_thread, tmp_path_factory) -> Path:
    """The findings of one, two and three ranks."""
    folder = tmp_path_factory.mktemp("elsa")
    two_ranks.compare(__file__, folder, CONFIGS, scenario)
    two_ranks.start(__file__, folder, 3)
    return folder


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", RUNS)
def test_several_processes_equal_one(folder, name, size):
    (one,), several = two_ranks.found(folder, 1), two_ranks.found(folder, size)
    for run in ((name, False), (name, True)):
        for rank in several:
            assert rank[run]["pruned"] == one[run]["pruned"]
            assert rank[run]["losses"] == pytest.approx(one[run]["losses"], rel=1e-4)
            total = sum(mask.numel() for mask in one[run]["masks"].values())
            masks = zip(one[run]["masks"].values(), rank[run]["masks"].values(), strict=True)
            # Sums of another order move a near tie.
            assert sum(int((a != b).sum()) for a, b in masks) <= 2e-3 * total
    for rank in several:
        calm, resumed = rank[name, False], rank[name, True]
        assert all(torch.equal(calm["weights"][n], resumed["weights"][n]) for n in calm["weights"])


def test_the_penalty_follows_the_target_by_default():
    at = {0.5: HALF, 0.8: Target(0.8), 0.95: Target(0.95), "2:4": PAIRS}
    found = {k: Splitting(JointConfig(), v, {}, Ranks.current()).penalty for k, v in at.items()}
    assert found == {0.5: 0.01, 0.8: 0.001, 0.95: 0.001, "2:4": 0.01}
