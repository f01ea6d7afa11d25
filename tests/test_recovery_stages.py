"""Training stages of every kind as a trial walks them, in this process; their identities."""

import dataclasses
import json
import math
import weakref

import pytest
import torch
from safetensors.torch import load_file

from core.config import CalibrationConfig, EvalConfig, FinetuneConfig, PruneConfig
from core.methods import METHODS
from core.models.mask_files import load_masks
from core.ranks import Ranks
from core.training import finetune
from core.training.loop import FinetuneReport
from core.training.optimizer import TrainingError
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from orchestrator.inputs.tokens import save_tokens
from orchestrator.jobs import trial_job
from orchestrator.out_dir import mark
from orchestrator.plan.identity import identity
from orchestrator.plan.inputs import (
    CalibrationText,
    EvaluationText,
    ModelInputs,
    TrainingText,
    ValidationText,
)
from orchestrator.plan.planner import Planner
from orchestrator.preparation import prepare, read_texts, trials_of
from orchestrator.results.schema import check_row
from orchestrator.trial import training as recovery
from orchestrator.trial.walk import Walk
from orchestrator.unread_flags import require_read

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "plain": {},
    "distill": {"distill": True, "distill_mix": 0.7},
    "reconstruct": {"objective": "reconstruct"},
    "bias_norm": {"trainable": "bias_norm"},
    "masklora": {"trainable": "masklora", "lora_rank": 4},
    "rates": {"lr": (1e-5, 3e-3)},
    "adaptive": {"objective": "adaptive", "lr": 1e-3},
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory, tiny_text_file):
    """Four disjoint texts by role."""
    folder = tmp_path_factory.mktemp("texts")
    lines = tiny_text_file.read_text(encoding="utf-8").splitlines()
    for start, role in ((0, "calibration"), (10, "train"), (20, "validation"), (30, "test")):
        part = "\n".join(lines[start : start + 10]) + "\n"
        (folder / f"{role}.txt").write_text(part, encoding="utf-8")
    return folder


def sweep_config(model, texts, out, finetune: dict, **changes) -> SweepConfig:
    several = isinstance(finetune.get("lr"), tuple)
    validation = {"validation": str(texts / "validation.txt")} if several else {}
    plain = {"lr": 1e-3, "tokens": 512, "seq_len": 32, "batch_tokens": 128}
    grid = {"methods": ("magnitude",), "regimes": ("finetune",), "sparsities": (0.5, 0.7)}
    return SweepConfig(
        grid=GridConfig(models=(str(model),), **(grid | changes)),
        calibration=CalibrationConfig(text=str(texts / "calibration.txt"), num_samples=4),
        finetune=FinetuneConfig(
            text=str(texts / "train.txt"), **{**plain, **validation, **finetune}
        ),
        eval=EvalConfig(texts=(str(texts / "test.txt"),), seq_len=32, max_windows=8),
        output=OutputConfig(out_dir=str(out)),
    )


def walk(config: SweepConfig):
    """Runs what is missing, trial by trial, as a single rank; returns the sweep before it."""
    sweep = prepare(config)
    mark(sweep.store)
    texts = read_texts(sweep)
    save_tokens(sweep.store, texts.tokens)
    texts.training.write()
    for trial in trials_of(sweep, texts.seconds, 1):
        job = trial_job(sweep, trial, set())
        Walk(job, sweep.store, Ranks.current(), lambda _: None).run()
    return sweep


def rows_of(sweep) -> list[dict]:
    return [
        row for row in sweep.store.rows.read().values() if row["cell_id"] in sweep.plan.cells
    ]  # of this grid alone


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("regime", ["finetune", "iterative"])
def test_every_kind_of_training_walks_every_regime(tiny_opt_dir, texts, tmp_path, name, regime):
    config = sweep_config(tiny_opt_dir, texts, tmp_path / "out", SETTINGS[name], regimes=(regime,))
    sweep = walk(config)
    rows = rows_of(sweep)
    assert {row["status"] for row in rows} == {"done"}
    trained = [row for row in rows if row["regime"] == regime and row["method"] != "dense"]
    assert len(trained) == 2
    for row in trained:
        check_row(
            {k: v for k, v in row.items() if not k.startswith("_")} | {"in_current_grid": True}
        )
        rounds = row["round"]
        # Of several learning rates only the tokens behind the weights that were kept count here.
        assert row["num_finetune_tokens"] == 512 * rounds
        tried = 512 * rounds * len(config.finetune.lrs) if name == "rates" else None
        assert row.get("num_tried_tokens") == tried
        assert math.isfinite(row["perplexity"])
        settings = json.loads(row["finetune_settings"] or "{}")
        assert settings.keys() == SETTINGS[name].keys() - {"distill_mix"}
        assert row["finetune_lr"] in config.finetune.lrs
        (file,) = (tmp_path / "out" / row["stage_dir"]).rglob("model.safetensors")
        weights, masks = load_file(file), load_masks(file.with_name("masks.safetensors"))
        for matrix, mask in masks.items():
            assert not weights[f"{matrix}.weight"][~mask].any()
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert not prepare(config).cells


def test_the_learning_rate_with_the_lowest_validation_loss_is_kept(tiny_opt_dir, texts, tmp_path):
    sweep = walk(sweep_config(tiny_opt_dir, texts, tmp_path / "several", {"lr": (1e-5, 3e-3)}))
    single = {
        rate: walk(sweep_config(tiny_opt_dir, texts, tmp_path / f"{rate}", {"lr": rate}))
        for rate in (1e-5, 3e-3)
    }
    found = {row["sparsity"]: row for row in rows_of(sweep)}
    for sparsity in (0.5, 0.7):
        row = found[sparsity]
        metrics = sweep.store.stages.at(row["stage_id"]).manifest()["metrics"]
        losses = metrics["validation_losses"]
        assert losses.keys() == {"1e-05", "0.003"}
        chosen = min(losses, key=losses.__getitem__)
        assert metrics["lr"] == row["finetune_lr"] == float(chosen)
        assert metrics["validation_nll"] == losses[chosen]
        # The bits of a sweep with that rate alone.
        alone = {r["sparsity"]: r for r in rows_of(single[float(chosen)])}[sparsity]
        assert row["perplexity"] == alone["perplexity"]
        folders = [tmp_path / "several" / row["stage_dir"]]
        folders.append(tmp_path / f"{float(chosen)}" / alone["stage_dir"])
        one, two = (load_file(next(each.rglob("model.safetensors"))) for each in folders)
        assert all(torch.equal(one[n], two[n]) for n in one)


def test_a_rate_that_diverges_is_out_and_the_stage_fails_only_if_all_do(
    tiny_opt_dir, texts, tmp_path, monkeypatch
):
    real = finetune.finetune_

    def finetune_(model, masks, windows, config, *rest, **settings):
        if config.lr >= bound:
            next(model.parameters()).data.fill_(torch.nan)
            raise TrainingError("loss nan at step 1; try --finetune.lr 0.01")
        return real(model, masks, windows, config, *rest, **settings)

    monkeypatch.setattr(recovery, "finetune_", finetune_)
    bound = 0.1
    sweep = walk(sweep_config(tiny_opt_dir, texts, tmp_path / "one", {"lr": (0.1, 1e-3)}))
    for row in rows_of(sweep):
        assert row["status"] == "done"
        if row["regime"] == "finetune":
            assert row["finetune_lr"] == 1e-3
            metrics = sweep.store.stages.at(row["stage_id"]).manifest()["metrics"]
            assert metrics["validation_losses"]["0.1"] is None
    bound = 1e-4
    sweep = walk(sweep_config(tiny_opt_dir, texts, tmp_path / "all", {"lr": (0.1, 1e-3)}))
    failed = [row for row in rows_of(sweep) if row["regime"] == "finetune"]
    assert {row["status"] for row in failed} == {"failed"}
    assert all("--finetune.lr" in row["error"] for row in failed)


def test_recomputing_activations_changes_no_identity(tiny_opt_dir, texts, tmp_path):
    config = sweep_config(tiny_opt_dir, texts, tmp_path / "out", {})
    walk(config)
    saving = dataclasses.replace(config, resources=ResourceConfig(activation_checkpointing=True))
    assert not prepare(saving).cells
    other = dataclasses.replace(saving, output=OutputConfig(out_dir=str(tmp_path / "other")))
    one, two = (
        {(r["regime"], r["sparsity"]): r["perplexity"] for r in rows_of(walk(c))}
        for c in (config, other)
    )
    assert one == pytest.approx(two, rel=1e-6)


# Identities --------------------------------------------------------------------------------------


class OldEvaluation(EvaluationText):
    """An evaluation text whose fields are those of the recorded identities."""

    def fields(self):
        return {"text": self.text, "seq_len": self.seq_len, "stride": self.stride}


class OldCalibration(CalibrationText):
    """A calibration text whose fields are those of the recorded identities."""

    def fields(self):
        return {"text": self.text, "num_samples": self.num_samples, "seq_len": self.seq_len}


def plan_of(finetune: FinetuneConfig, **changes):
    inputs = ModelInputs(
        name="tiny",
        identity="sha256:tiny",
        dtype="float32",
        training_dtype="float32",
        calibration=OldCalibration("cal", "c", 8, 16, "stream"),
        finetune=TrainingText("train", "t", 16),
        batch_tokens=64,
        evaluations=(OldEvaluation("test", "e", 16, 16),),
        **({"finetune_tokens": 1000} | changes),
    )
    grid = GridConfig(
        sparsities=(0.3, 0.5, 0.7),
        methods=("magnitude", "wanda", "sparsegpt"),
        seeds=(0, 1),
        mask_structures=("2:4",),
    )
    return Planner(grid, PruneConfig(), finetune).build([inputs])


@pytest.mark.parametrize(
    ("finetune", "stages", "cells"),
    [
        (
            FinetuneConfig(),
            "a72f5be65e8c9469e4578b553e7f9367",
            "16f711bf3112f0dfcaff8966b16fe8af",
        ),
        (
            FinetuneConfig(lr=1e-3, budget="total", weight_decay=0.1),
            "76b326259bba36b6b2aa183e4617a6f7",
            "6e026ba9242e0591d92d5faf9b76e026",
        ),
    ],
)
def test_plain_training_keeps_the_identities_it_had_before_there_were_options(
    finetune, stages, cells, monkeypatch
):
    # Recorded from the code without any of these options, when SparseGPT's version was 1.
    older = dataclasses.replace(METHODS["sparsegpt"], version=1)
    monkeypatch.setitem(METHODS, "sparsegpt", older)
    plan = plan_of(finetune)
    assert identity(sorted(plan.stages)) == stages
    assert identity(sorted(plan.cells)) == cells


def test_a_rate_that_failed_leaves_nothing_in_memory(monkeypatch):
    moments: list[weakref.ref[torch.Tensor]] = []

    class Failing:
        space, stage, rate = None, None, 1.0

        def train(self, *given):
            large = torch.zeros(8)
            moments.append(weakref.ref(large))
            raise TrainingError("loss is nan")

    class Working(Failing):
        rate = 0.1

        def train(self, *given):
            assert [one() for one in moments] == [None]
            return FinetuneReport(8, [1.0], 0)

    monkeypatch.setattr(recovery, "validation_nll", lambda *given: 1.0)
    rounds, masks = [Failing(), Working()], {}
    found, _ = recovery.train_best(rounds, torch.nn.Linear(2, 2), None, masks, torch.zeros(1, 8))
    assert found["lr"] == 0.1 and found["validation_losses"] == {"1": None, "0.1": 1.0}


def test_one_rate_in_a_list_is_that_rate():
    listed, plain = (plan_of(FinetuneConfig(lr=lr)) for lr in ((1e-3,), 1e-3))
    assert list(listed.stages) == list(plain.stages)


def test_every_option_has_identities_of_its_own():
    options = {
        **SETTINGS,
        "softer": {"distill": True, "distill_temperature": 4.0},
        "rank": {"trainable": "masklora", "lora_rank": 8},
        "default rank": {"trainable": "masklora"},
    }
    seen: dict[str, str] = {}
    for name, settings in options.items():
        plan = plan_of(FinetuneConfig(**settings))
        for stage in plan.stages.values():
            if stage.work.trains:
                assert seen.setdefault(stage.id, name) == name


def test_the_validation_text_enters_where_a_rate_is_chosen():
    rates = FinetuneConfig(lr=(1e-3, 1e-4))
    one, two = (plan_of(rates, validation=ValidationText(name, name, 16, 8)) for name in ("a", "b"))
    assert not {s.id for s in one.stages.values() if s.work.trains} & set(two.stages)


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "reconstrukt"}, "--finetune.objective 'reconstrukt' is unknown: did you"),
        ({"trainable": "lora"}, "--finetune.trainable 'lora' is unknown"),
        ({"lr": ()}, "--finetune.lr"),
        ({"lr": (1e-3, 1e-3)}, "--finetune.lr 0.001: given twice"),
        ({"lr": (1e-3, -1.0)}, "--finetune.lr -1.0: use a positive"),
        ({"lr": math.nan}, "--finetune.lr nan"),
        ({"distill_mix": 0.5}, "--finetune.distill-mix 0.5: has no effect without"),
        ({"distill_temperature": 2.0}, "--finetune.distill-temperature 2.0: has no effect"),
        ({"distill": True, "distill_mix": 1.5}, "--finetune.distill-mix 1.5"),
        ({"distill": True, "distill_temperature": 0.0}, "--finetune.distill-temperature 0.0"),
        ({"lora_rank": 8}, "--finetune.lora-rank 8: has no effect without --finetune.trainable"),
        ({"trainable": "masklora", "lora_rank": 0}, "--finetune.lora-rank 0"),
        ({"distill": True, "objective": "reconstruct"}, "--finetune.objective reconstruct"),
        ({"distill": True, "objective": "adaptive"}, "--finetune.distill True: adaptive learns"),
    ],
)
def test_what_would_have_no_effect_or_no_meaning_is_refused(settings, message):
    with pytest.raises(ValueError) as error:
        FinetuneConfig(**settings)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_validation_text_is_no_other_roles_text(tiny_opt_dir, texts, tmp_path):
    rates = {"lr": (1e-3, 1e-4), "validation": str(texts / "test.txt")}
    with pytest.raises(ValueError, match="is the same text as --finetune.validation"):
        prepare(sweep_config(tiny_opt_dir, texts, tmp_path, rates))


def test_several_rates_need_a_validation_text(tiny_opt_dir, texts, tmp_path):
    rates = {"lr": (1e-3, 1e-4), "validation": None}
    with pytest.raises(ValueError, match="--finetune.lr 0.001 0.0001: several need --finetune.v"):
        prepare(sweep_config(tiny_opt_dir, texts, tmp_path, rates))


def test_activation_checkpointing_is_refused_where_it_saves_nothing(tiny_opt_dir, texts):
    config = sweep_config(tiny_opt_dir, texts, "out", {"objective": "reconstruct"})
    with pytest.raises(ValueError, match="--activation-checkpointing has no effect"):
        require_read(dict.fromkeys({"activation-checkpointing"}, [config]))
