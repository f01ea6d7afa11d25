"""Adaptive training: the gap to the dense model, the recipe that it asks for, rounds taken back."""

import copy
import dataclasses
import json
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from test_recovery_stages import plan_of, rows_of, sweep_config, texts, walk  # noqa: F401
from transformers import OPTConfig, OPTForCausalLM

from core.config import FinetuneConfig
from core.joint_config import JointConfig
from core.measures.gap import mean_gap
from core.ranks import Ranks
from core.training import adaptive
from core.training.adaptive import (
    DISTILL,
    RECONSTRUCT,
    SMALL_GAP,
    WIDTH,
    Start,
    adapted,
    gap_windows,
)
from core.training.loop import Progress
from core.training.optimizer import TrainingError
from core.training_config import SHORT_ROUND, Training
from orchestrator.config import OutputConfig, SweepConfig
from orchestrator.failure import DamagedStageError
from orchestrator.plan.kinds import Finetune
from orchestrator.trial import training as recovery
from orchestrator.trial.workspace import Workspace

pytestmark = pytest.mark.usefixtures("one_thread")
ADAPTIVE = Training(objective="adaptive")
NO_RATE = {"objective": "adaptive", "lr": None, "batch_tokens": 32}


def tiny_model(seed: int) -> OPTForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = OPTConfig(vocab_size=50, max_position_embeddings=24, word_embed_proj_dim=16, **sizes)
    return OPTForCausalLM(config).eval()


# The gap -----------------------------------------------------------------------------------------


def test_the_gap_is_the_mean_divergence_of_all_positions():
    model, dense = tiny_model(0), tiny_model(1)
    windows = torch.randint(50, (5, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, wanted = (m(windows).logits.double().softmax(-1) for m in (model, dense))
    expected = (wanted * (wanted / ours).log()).sum(-1).mean().item()
    found = mean_gap(model, dense, windows, Ranks.current(), micro_batch=2)
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_dense_model_has_no_gap():
    dense = tiny_model(1)
    windows = torch.randint(50, (3, 8), generator=torch.Generator().manual_seed(0))
    assert mean_gap(copy.deepcopy(dense), dense, windows, Ranks.current()) == 0.0


def test_the_windows_of_a_gap_do_not_depend_on_the_number_of_workers():
    counts = {seq_len: len(gap_windows(torch.zeros(8, seq_len))) for seq_len in (1024, 2048, 8192)}
    assert counts == {1024: 4, 2048: 2, 8192: 1}


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_the_windows_of_a_gap(size):
    class Part(Ranks):
        def sum_(self, tensor):
            return tensor

    model, dense = tiny_model(0), tiny_model(1)
    windows = torch.randint(50, (5, 8), generator=torch.Generator().manual_seed(0))
    cpu = torch.device("cpu")
    parts = [mean_gap(model, dense, windows, Part(rank, size, cpu)) for rank in range(size)]
    assert sum(parts) == pytest.approx(mean_gap(model, dense, windows, Ranks.current()), rel=1e-6)


# The recipe --------------------------------------------------------------------------------------


def start(gap, width=WIDTH, tokens=SHORT_ROUND, was_distilled=False):
    return Start(gap, width, tokens, was_distilled)


def test_a_small_gap_is_reconstructed_and_a_large_one_distilled():
    small, large = (adapted(ADAPTIVE, start(gap)) for gap in (SMALL_GAP, 1.01 * SMALL_GAP))
    assert (small.objective, small.distill) == ("reconstruct", False)
    assert (large.objective, large.distill, large.mix, large.temperature) == (
        *("next_token", True, 1.0, 1.0),
    )


def test_the_limit_falls_with_the_tokens_of_long_rounds_alone():
    limits = {64: 1.0, 1: 1.0, 0.67: 1.0, 0.25: 0.375, 0.01: 0.015}
    for share, limit in limits.items():
        tokens = round(SHORT_ROUND / share)
        below, above = 0.999 * limit * SMALL_GAP, 1.001 * limit * SMALL_GAP
        assert [start(gap, tokens=tokens).reconstructs for gap in (below, above)] == [True, False]


def test_what_has_learned_predictions_goes_on_learning_them():
    found = adapted(ADAPTIVE, start(0.01, was_distilled=True))
    assert found.distill and found.lr == DISTILL.at(0.01, WIDTH)


@pytest.mark.parametrize("gap", [math.nan, math.inf])
def test_a_gap_that_is_no_number_is_distilled(gap):
    assert adapted(ADAPTIVE, start(gap)).distill


@pytest.mark.parametrize("rule", [RECONSTRUCT, DISTILL])
def test_the_rate_grows_with_the_gap_up_to_a_limit_and_falls_with_the_width(rule):
    rates = [rule.at(gap, WIDTH) for gap in (0.01, 0.1, 1.0, 3.0, 1e9, math.inf, math.nan)]
    assert rates == sorted(rates) and len(set(rates[:4])) == 4
    assert rates[2] == rule.at_one and rates[-1] == rates[-2] == rates[-3] == rule.highest
    assert rule.at(1.0, 4 * WIDTH) == pytest.approx(rule.at_one / 4)
    assert rule.at(1.0, WIDTH // 4) == rule.at_one


def test_a_rate_that_was_given_stays():
    given = dataclasses.replace(ADAPTIVE, lr=(1e-3, 2e-3))
    assert {adapted(given, start(gap)).lrs for gap in (0.5, 5.0)} == {(1e-3, 2e-3)}


def test_all_else_stays_as_it_was_given():
    given = dataclasses.replace(ADAPTIVE, trainable="masklora", warmup_frac=0.3, clip_norm=2.0)
    for gap in (0.5, 5.0):
        found = adapted(given, start(gap))
        assert (found.trainable, found.warmup_frac, found.clip_norm) == ("masklora", 0.3, 2.0)


def test_it_is_the_default_of_sweeps_and_not_of_records():
    assert SweepConfig().finetune.objective == "adaptive"
    recorded = SweepConfig.from_dict({"finetune": {"lr": 3e-4}})
    assert recorded.finetune == FinetuneConfig(lr=3e-4)


def test_joint_training_keeps_its_identity_beside_it():
    joint = JointConfig(lr=1e-3)
    plain = joint.training(Training())
    assert joint.training(ADAPTIVE) == plain


def test_the_version_rises_in_long_rounds_and_later_ones_and_nowhere_else():
    # By whether the round is a later one, and then a long one.
    versions = {(False, False): 1, (True, False): 2, (False, True): 3, (True, True): 3}
    found = set()
    for tokens in (SHORT_ROUND, SHORT_ROUND + 16):
        plan = plan_of(FinetuneConfig(objective="adaptive"), finetune_tokens=tokens)
        for stage in plan.stages.values():
            if isinstance(work := stage.work, Finetune):
                place = work.round > 1, tokens > SHORT_ROUND
                expected = 1 if work.is_control else versions[place]
                assert stage.fields["objective_version"] == expected
                found.add((work.is_control, *place))
    assert len(found) == 8
    others = plan_of(FinetuneConfig(objective="reconstruct"), finetune_tokens=2 * SHORT_ROUND)
    versions = {
        stage.fields["objective_version"] for stage in others.stages.values() if stage.work.trains
    }
    assert versions == {1}


def step_sizes(finetune, **inputs) -> set[int]:
    plan = plan_of(FinetuneConfig(**finetune), **inputs)
    return {stage.work.batch_tokens for stage in plan.stages.values() if stage.work.trains}


def test_its_smaller_batches_are_those_of_no_other_training():
    assert step_sizes({}, batch_is_given=False) == {64}
    assert step_sizes(NO_RATE, batch_is_given=False) == {16}
    assert step_sizes(NO_RATE) == {64}


def test_each_round_takes_its_steps_also_where_rounds_share_the_tokens():
    tokens = 512 * 8 * 16
    of = [
        step_sizes(NO_RATE | {"budget": budget}, finetune_tokens=tokens, batch_is_given=False)
        for budget in ("round", "total")
    ]
    # Cells have one to three rounds of windows of 16 tokens.
    assert of == [{8 * 16}, {8 * 16, 4 * 16, 2 * 16}]


# Rounds in a trial -------------------------------------------------------------------------------


def trained_rows(sweep) -> list[dict]:
    found = [row for row in rows_of(sweep) if row["regime"] == "finetune"]
    assert found
    return found


def weights_of(row, folder):
    return load_file(next((folder / row["stage_dir"]).rglob("model.safetensors")))


def test_a_round_records_its_gap_objective_and_rate(tiny_opt_dir, texts, tmp_path):  # noqa: F811
    sweep = walk(sweep_config(tiny_opt_dir, texts, tmp_path / "out", NO_RATE))
    for row in trained_rows(sweep):
        (told,) = json.loads(row["finetune_rounds"])
        assert row["finetune_lr"] == told["lr"]
        if row["method"] == "dense":
            assert told == {"lr": 0.0, "gap_before": 0.0} and row["num_finetune_tokens"] == 0
            continue
        assert row["num_finetune_tokens"] == 512
        assert told["objective"] == "reconstruct" and not told["taken_back"]
        assert told["gap_after"] < told["gap_before"] < SMALL_GAP
        expected = RECONSTRUCT.at(told["gap_before"], 32)
        assert told["lr"] == pytest.approx(expected)
    control = {row["perplexity"] for row in rows_of(sweep) if row["method"] == "dense"}
    assert len(control) == 1, "the dense model learns nothing from itself"


@pytest.mark.parametrize("diverges", [False, True])
def test_a_round_that_does_not_lower_the_gap_is_taken_back(
    tiny_opt_dir,
    texts,  # noqa: F811
    tmp_path,
    monkeypatch,
    diverges,
):
    def diverge(*_, **__):
        raise TrainingError("loss nan at step 1; try --finetune.lr 0.01")

    if diverges:
        monkeypatch.setattr(recovery, "finetune_", diverge)
    harmful = {"objective": "adaptive", "lr": 3.0, "batch_tokens": 32}
    sweep = walk(sweep_config(tiny_opt_dir, texts, tmp_path / "out", harmful))
    for row in trained_rows(sweep):
        if row["method"] == "dense":
            continue
        assert row["status"] == "done"
        (told,) = json.loads(row["finetune_rounds"])
        assert told["taken_back"] and not (told["gap_after"] or math.inf) < told["gap_before"]
        assert row["perplexity"] == row["perplexity_before_finetune"]
        assert row["num_finetune_tokens"] == 512, "what was trained in vain counts"


def iterative_rounds(sweep) -> list[dict]:
    [row] = [r for r in rows_of(sweep) if r["regime"] == "iterative" and r["sparsity"] == 0.5]
    return json.loads(row["finetune_rounds"])


def test_a_branch_that_has_learned_predictions_reconstructs_no_more(
    tiny_opt_dir,
    texts,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    grids = [
        {"regimes": ("finetune",), "sparsities": (0.3,)},
        {"regimes": ("iterative",), "sparsities": (0.3, 0.5)},
    ]
    first, then = (
        sweep_config(tiny_opt_dir, texts, tmp_path / "out", NO_RATE, **grid) for grid in grids
    )
    fresh = sweep_config(tiny_opt_dir, texts, tmp_path / "fresh", NO_RATE, **grids[1])
    assert [each["objective"] for each in iterative_rounds(walk(fresh))] == ["reconstruct"] * 2
    with monkeypatch.context() as patch:
        patch.setattr(adaptive, "SMALL_GAP", 1e-9)
        walk(first)
    rounds = iterative_rounds(walk(then))
    assert [each["objective"] for each in rounds] == ["distill", "distill"]
    assert rounds[1]["gap_before"] < SMALL_GAP


def branch_of(metrics):
    """Return a workspace of dense, train and prune with these metrics; the others are lost."""
    parents = {"prune": "train", "train": "dense"}
    found = {stage: {"metrics": each} for stage, each in metrics.items()}
    space = SimpleNamespace(
        told=lambda question: question(),
        manifests=SimpleNamespace(find=found.get),
        job=SimpleNamespace(
            root=SimpleNamespace(id="dense"),
            stage=lambda stage: SimpleNamespace(parent=parents[stage]),
        ),
    )
    space.earlier_metrics = partial(Workspace.earlier_metrics, space)
    return space


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"objective": "distill", "taken_back": False}, True),
        ({"objective": "distill", "taken_back": True}, False),
        ({"objective": "reconstruct", "taken_back": False}, False),
        ({"lr": 0.0, "gap_before": 0.0}, False),
    ],
)
def test_a_round_that_was_taken_back_does_not_count_as_learned(metrics, expected):
    space = branch_of({"train": metrics, "prune": {}})
    assert recovery.was_distilled(space, SimpleNamespace(parent="prune")) is expected


def test_a_stage_that_lost_an_earlier_one_asks_for_it():
    space = branch_of({})
    with pytest.raises(DamagedStageError) as raised:
        recovery.was_distilled(space, SimpleNamespace(parent="prune"))
    assert raised.value.stage_id == "prune"


@pytest.mark.parametrize(
    ("share", "objective"), [(1.1, "reconstruct"), (0.9, "distill")], ids=["below", "above"]
)
def test_the_limit_of_a_round_follows_its_own_tokens(
    tiny_opt_dir,
    texts,  # noqa: F811
    tmp_path,
    monkeypatch,
    share,
    objective,
):
    def told(folder):
        grid = {"methods": ("magnitude",), "sparsities": (0.5,)}
        rows = trained_rows(walk(sweep_config(tiny_opt_dir, texts, folder, NO_RATE, **grid)))
        [row] = [row for row in rows if row["method"] == "magnitude"]
        return row, json.loads(row["finetune_rounds"])[0]

    row, before = told(tmp_path / "a")
    limit = share * before["gap_before"]
    monkeypatch.setattr(adaptive, "SMALL_GAP_TOKENS", row["num_finetune_tokens"] * limit)
    assert told(tmp_path / "b")[1]["objective"] == objective


class KilledError(BaseException):
    """Stands for a process that is killed."""


@pytest.mark.parametrize("small_gap", [SMALL_GAP, 1e-9], ids=["reconstruct", "distill"])
def test_a_killed_round_goes_on_with_its_recipe(
    tiny_opt_dir,
    texts,  # noqa: F811
    tmp_path,
    monkeypatch,
    small_gap,
):
    monkeypatch.setattr(adaptive, "SMALL_GAP", small_gap)
    grid = {"sparsities": (0.5,)}
    configs = [sweep_config(tiny_opt_dir, texts, tmp_path / n, NO_RATE, **grid) for n in "ab"]
    output = OutputConfig(out_dir=str(tmp_path / "b"), checkpoint_seconds=0.0)
    calm, config = walk(configs[0]), dataclasses.replace(configs[1], output=output)
    save = Progress.save_if_due

    def save_and_die(self):
        save(self)
        if self.seen > 2:
            raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Progress, "save_if_due", save_and_die)
        walk(config)
    assert (tmp_path / "b" / "checkpoints").exists()
    resumed = walk(config)
    one, two = (next(r for r in trained_rows(s) if r["sparsity"]) for s in (calm, resumed))
    metrics = resumed.store.stages.at(two["stage_id"]).manifest()["metrics"]
    assert metrics["steps_resumed"] > 0
    assert one["finetune_rounds"] == two["finetune_rounds"]
    ours, theirs = weights_of(one, tmp_path / "a"), weights_of(two, tmp_path / "b")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not [*(tmp_path / "b" / "checkpoints").rglob("*")]
