"""The regime `joint`: elsa's cells as a trial walks them, their rows, and what means nothing."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch
import walked
from safetensors.torch import load_file
from stand_in_walk import MODEL

from core.config import CalibrationConfig, EvalConfig, FinetuneConfig, PruneConfig
from core.joint_config import JointConfig
from core.measures.sparsity import assert_growing
from core.models.mask_files import load_masks
from core.ranks import Ranks
from core.training import loop as training_loop
from orchestrator.config import GridConfig, OutputConfig, SweepConfig
from orchestrator.dry_run import describe_plan
from orchestrator.estimate.memory import host_memory, phases
from orchestrator.estimate.seconds import block_seconds
from orchestrator.out_dir import mark
from orchestrator.plan.inputs import TrainingText
from orchestrator.plan.kinds import Joint, Prune
from orchestrator.preparation import prepare, read_texts, trials_of
from orchestrator.publish.recompute_command import is_read, narrowed
from orchestrator.results.curves import curves_from_rows
from orchestrator.results.details import details_of
from orchestrator.results.schema import check_row
from orchestrator.trial.walk import Walk
from orchestrator.unread_flags import require_read

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINING = {"tokens": 512, "seq_len": 32, "batch_tokens": 64}


def config_of(model, folder, joint=None, finetune=None, prune=None, **grid) -> SweepConfig:
    several = {"methods": ("elsa",), "regimes": ("joint",), "sparsities": (0.5, 0.7)} | grid
    return SweepConfig(
        grid=GridConfig(models=(str(model),), **several),
        calibration=CalibrationConfig(str(folder / "calibration.txt"), num_samples=4, seq_len=32),
        prune=prune or PruneConfig(),
        finetune=FinetuneConfig(text=str(folder / "train.txt"), **TRAINING | (finetune or {})),
        joint=JointConfig(**{"lr": 1e-3, "interval": 3} | (joint or {})),
        eval=EvalConfig(texts=(str(folder / "test.txt"),), seq_len=32, max_windows=4),
        output=OutputConfig(out_dir=str(folder / "out")),
    )


@pytest.fixture
def folder(tmp_path, write_texts):
    """A folder with the texts of all roles."""
    write_texts(tmp_path)
    return tmp_path


def rows_of(sweep) -> list[dict]:
    return [r for r in sweep.store.rows.read().values() if r["cell_id"] in sweep.plan.cells]


def stored(folder, row):
    (file,) = (folder / "out" / row["stage_dir"]).rglob("model.safetensors")
    return load_file(file), load_masks(file.with_name("masks.safetensors"))


STARTS = {"dense": {}, "pruned": {"start": "wanda", "start_sparsity": 0.4}}


@pytest.mark.parametrize("start", STARTS)
def test_a_cell_is_trained_stored_and_told(tiny_opt_dir, folder, start):
    structures = () if start == "pruned" else ("2:4",)
    config = config_of(tiny_opt_dir, folder, STARTS[start], mask_structures=structures)
    sweep = walked.walk(config)
    rows = rows_of(sweep)
    found = [row for row in rows if row["method"] == "elsa"]
    assert len(found) == 2 + len(structures) and len(rows) == len(found) + 1
    for row in found:
        plain = {k: v for k, v in row.items() if not k.startswith("_")}
        check_row(plain | {"in_current_grid": True})
        assert row["status"] == "done" and row["regime"] == "joint"
        assert row["num_finetune_tokens"] == 512 and row["finetune_lr"] == 1e-3
        assert row["finetune_seconds"] > 0 and row["perplexity"] > 1
        settings = json.loads(row["method_settings"])
        assert settings["penalty"] == {0.5: 0.01, 0.7: 0.002}[row["sparsity"]]
        assert settings["interval"] == 3
        assert settings.get("start", "dense") == STARTS[start].get("start", "dense")
        weights, masks = stored(folder, row)
        for name, mask in masks.items():
            assert int((~mask).sum()) == round(row["sparsity"] * mask.numel())
            assert not weights[f"{name}.weight"][~mask].any()
    assert not (folder / "out" / "checkpoints").exists()
    assert not prepare(config).cells
    shown = details_of(found, lambda stage: sweep.store.stages.at(stage).manifest())
    assert shown["stages"].keys() == {row["stage_id"] for row in found}


def test_the_masks_of_a_start_grow(tiny_opt_dir, folder):
    sweep = walked.walk(config_of(tiny_opt_dir, folder, STARTS["pruned"]))
    (first,) = (s for s in sweep.plan.stages.values() if isinstance(s.work, Prune))
    (file,) = (folder / "out" / "stages" / first.id).rglob("masks.safetensors")
    found = [row for row in rows_of(sweep) if row["method"] == "elsa"]
    assert found
    for row in found:
        assert row["path"] == [0.4, row["sparsity"]]
        assert row["calibration_tokens"] == 4 * 32
        assert_growing(load_masks(file), stored(folder, row)[1])


def test_the_zeros_of_a_sparse_model_bind_if_that_is_asked_for(make_model_dir, folder):
    from conftest import tiny_opt_config
    from safetensors.torch import save_file

    model = make_model_dir(tiny_opt_config())
    file = model / "model.safetensors"
    weights = load_file(file)
    weights["model.decoder.layers.0.fc1.weight"][:, ::5] = 0
    save_file(weights, file, metadata={"format": "pt"})
    sweep = walked.walk(config_of(model, folder, prune=PruneConfig(keep_zeros=True)))
    found = [row for row in rows_of(sweep) if row["method"] == "elsa"]
    assert found
    for row in found:
        masks = stored(folder, row)[1]
        assert not masks["model.decoder.layers.0.fc1"][:, ::5].any()
        assert json.loads(row["method_settings"])["keep_zeros"] is True


def with_validation(folder) -> dict[str, str]:
    """Make a part of the test text the one that a rate is chosen on; return the setting."""
    lines = (folder / "test.txt").read_text().splitlines()
    (folder / "validation.txt").write_text("\n".join(lines[6:]) + "\n")
    (folder / "test.txt").write_text("\n".join(lines[:6]) + "\n")
    return {"validation": str(folder / "validation.txt")}


def test_the_rate_with_the_lowest_validation_loss_keeps_its_masks(tiny_opt_dir, folder):
    text = with_validation(folder)
    config = config_of(tiny_opt_dir, folder, {"lr": (1e-6, 3e-3)}, text, sparsities=(0.5,))
    sweep = walked.walk(config)
    (row,) = (row for row in rows_of(sweep) if row["method"] == "elsa")
    metrics = sweep.store.stages.at(row["stage_id"]).manifest()["metrics"]
    losses = metrics["validation_losses"]
    assert row["finetune_lr"] == float(min(losses, key=losses.__getitem__))
    assert row["num_tried_tokens"] == 2 * row["num_finetune_tokens"] == 2 * 512
    weights, masks = stored(folder, row)
    assert all(not weights[f"{name}.weight"][~mask].any() for name, mask in masks.items())


class KilledError(BaseException):
    """Stands for a process that is killed."""


@pytest.mark.parametrize(
    ("rates", "at_rate"), [(1e-3, 1), ((3e-3, 1e-3), 1), ((3e-3, 1e-3), 2)], ids=str
)
def test_a_killed_run_resumes_to_the_bits_of_a_calm_one(
    tiny_opt_dir, tmp_path, write_texts, rates, at_rate
):
    found = {}
    for name in ("calm", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        write_texts(folder)
        text = with_validation(folder) if isinstance(rates, tuple) else None
        config = config_of(tiny_opt_dir, folder, {"lr": rates}, text, sparsities=(0.5,))
        output = dataclasses.replace(config.output, checkpoint_seconds=0.0)
        config = dataclasses.replace(config, output=output)
        if name == "killed":
            kill_after(config, 5, at_rate)
            assert any((folder / "out" / "checkpoints").rglob("*.safetensors"))
        (row,) = (row for row in rows_of(walked.walk(config)) if row["method"] == "elsa")
        found[name] = (*stored(folder, row), (row["perplexity"], row["finetune_lr"]))
    (weights, masks, calm), (others, same, killed) = found["calm"], found["killed"]
    assert calm == killed
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert all(torch.equal(masks[name], same[name]) for name in masks)


def kill_after(config: SweepConfig, steps: int, at_rate: int) -> None:
    """Run a sweep until a checkpoint of so many steps with a rate is stored, and die."""
    sweep, reached = prepare(config), itertools.count(1)
    mark(sweep.store)
    (job,) = walked.jobs_of(sweep)
    add = training_loop.Progress.save_if_due

    def dying(progress):
        add(progress)
        if progress.done == steps and next(reached) == at_rate:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(training_loop.Progress, "save_if_due", dying)
        Walk(job, sweep.store, Ranks.current(), lambda _: None).run()


# Plans --------------------------------------------------------------------------------------------


def test_methods_and_regimes_meet_only_where_they_mean_something(tiny_opt_dir, folder):
    regimes = ("oneshot", "finetune", "joint")
    plan = prepare(
        config_of(tiny_opt_dir, folder, methods=("magnitude", "elsa"), regimes=regimes)
    ).plan
    pairs = {(cell.method, cell.regime) for cell in plan.cells.values()}
    assert pairs == {
        ("dense", "dense"),
        ("dense", "finetune"),
        ("magnitude", "oneshot"),
        ("magnitude", "finetune"),
        ("elsa", "joint"),
    }


def test_everything_that_changes_numbers_is_in_the_identity(tiny_opt_dir, folder):
    settings = [
        {},
        {"penalty": 0.02},
        {"penalty_schedule": "cosine"},
        {"interval": 4},
        {"score": "second_moment"},
        {"lr": 2e-3},
        STARTS["pruned"],
    ]
    seen = []
    for joint in settings:
        plan = prepare(config_of(tiny_opt_dir, folder, joint)).plan
        seen += [stage.id for stage in plan.stages.values() if isinstance(stage.work, Joint)]
    assert len(set(seen)) == 2 * len(settings)


def test_time_and_memory_are_estimated(tiny_opt_dir, folder):
    sweep = prepare(config_of(tiny_opt_dir, folder))
    texts = read_texts(sweep)
    joint = [stage for stage in sweep.plan.stages.values() if isinstance(stage.work, Joint)]
    (cost,) = sweep.costs.values()
    assert all(texts.seconds[stage.id] > 0 for stage in joint)
    # Ranks of a training stage do not wait for a block.
    assert block_seconds(cost, joint) == 0
    found = phases(cost, True, 2, 64)
    assert found["joint"]["copies"] >= 8 * cost.block_parameters / 2
    assert host_memory(cost, 2, 64) >= found["joint"]["copies"]
    without = dataclasses.replace(cost, joins=False)
    assert "joint" not in phases(without, True, 2, 64)
    told = describe_plan(sweep, texts, trials_of(sweep, texts.seconds, 1), 1)
    assert "elsa joint 0.5" in told and "copies" in told


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("magnitude", "elsa"), "regimes": ("oneshot",)}, "--methods elsa: has none"),
        ({"methods": ("magnitude",), "regimes": ("oneshot", "joint")}, "--regimes joint: has none"),
        ({"regimes": ("oneshot", "joint")}, "--regimes oneshot: has none of the --methods"),
        ({"joint": {"start": "wanda"}}, "--joint.start wanda: needs --joint.start-sparsity"),
        ({"joint": {"start_sparsity": 0.3}}, "--joint.start-sparsity 0.3: needs --joint.start"),
        ({"joint": {"start": "wanda", "start_sparsity": 0.5}}, "--joint.start-sparsity 0.5: use"),
        ({"joint": {"start": "wand", "start_sparsity": 0.3}}, "--joint.start 'wand' is unknown"),
        ({"joint": {"penalty": 0.0}}, "--joint.penalty 0.0: use a positive number"),
        ({"joint": {"interval": 0}}, "--joint.interval 0: use 1 or more"),
        ({"joint": {"score": "obs"}}, "--joint.score 'obs' is unknown"),
        ({"joint": {"penalty_schedule": "step"}}, "--joint.penalty-schedule 'step' is unknown"),
        ({"joint": {"lr": (1e-3, 1e-3)}}, "--joint.lr 0.001: given twice"),
        ({"finetune": {"objective": "reconstruct"}}, "--finetune.objective reconstruct: joint"),
        ({"finetune": {"trainable": "masklora"}}, "--finetune.trainable masklora: joint"),
        (
            {"joint": STARTS["pruned"], "mask_structures": ("2:4",)},
            "--joint.start wanda: an unstructured start",
        ),
    ],
)
def test_what_means_nothing_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError) as error:
        config_of("m", tmp_path, **changes)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_only_the_training_that_chooses_a_rate_reads_the_validation_text(tiny_opt_dir, folder):
    rates, text = (1e-3, 1e-4), str(folder / "validation.txt")
    (folder / "validation.txt").write_text((folder / "test.txt").read_text()[:2000][::-1])
    grid = {"methods": ("magnitude", "elsa"), "regimes": ("finetune", "joint")}

    def chosen(joint, lr) -> set[tuple[str, bool]]:
        several = {"lr": lr, "validation": text}
        config = config_of(tiny_opt_dir, folder, {"lr": joint}, several, **grid)
        stages = prepare(config).plan.stages.values()
        trained = [stage.work for stage in stages if stage.work.trains]
        return {(type(work).__name__, len(work.readings()) > 1) for work in trained}

    assert chosen(1e-3, rates) == {("Finetune", True), ("Joint", False)}
    assert chosen(rates, 1e-3) == {("Finetune", False), ("Joint", True)}
    assert chosen(rates, rates) == {("Finetune", True), ("Joint", True)}


@pytest.mark.parametrize(
    ("joint", "finetune", "grid"),
    [
        ({}, {}, {}),
        ({}, {"lr": (1e-3, 1e-4)}, {}),
        ({"lr": (1e-3, 1e-4)}, {}, {"methods": ("magnitude",), "regimes": ("finetune",)}),
    ],
)
def test_a_validation_text_that_no_choice_reads_is_refused(tmp_path, joint, finetune, grid):
    message = "--finetune.validation x: has no effect without several --finetune.lr or --joint.lr"
    with pytest.raises(ValueError, match=message):
        config_of("m", tmp_path, joint, {**finetune, "validation": "x"}, **grid)


def test_several_rates_need_a_validation_text(tiny_opt_dir, folder):
    with pytest.raises(ValueError, match="--joint.lr 0.001 0.0001: several need --finetune.valid"):
        prepare(config_of(tiny_opt_dir, folder, {"lr": (1e-3, 1e-4)}))


@pytest.mark.parametrize(
    ("flag", "grid"),
    [
        ("joint.penalty", {"methods": ("magnitude",), "regimes": ("finetune",)}),
        ("finetune.lr", {}),
        ("finetune.budget", {}),
        ("prune.block-size", {}),
        ("calibration.text", {}),
        ("stop-perplexity", {}),
    ],
)
def test_flags_that_no_cell_reads_are_refused(tmp_path, flag, grid):
    with pytest.raises(ValueError, match=f"--{flag} has no effect"):
        require_read(dict.fromkeys({flag}, [config_of("m", tmp_path, **grid)]))


def test_the_start_reads_calibration_and_settings_of_pruning(tmp_path):
    config = config_of("m", tmp_path, {"start": "sparsegpt", "start_sparsity": 0.3})
    require_read(
        dict.fromkeys(
            {"calibration.text", "prune.block-size", "joint.start", "finetune.tokens"}, [config]
        )
    )


def test_a_row_names_the_flags_that_compute_it_again():
    row = {"method": "elsa", "regime": "joint", "sparsity": 0.5, "mask_structure": None}
    assert narrowed(row | {"path": [0.5]})["regimes"] == ["joint"]
    assert is_read("joint.penalty", row) and is_read("finetune.tokens", row)
    assert not is_read("joint.penalty", row | {"method": "wanda", "regime": "oneshot"})
    assert not any(is_read(f"finetune.{name}", row) for name in ("lr", "each-lr", "budget"))
    assert not is_read("finetune.validation", row | {"finetune_settings": '{"lr": 0.001}'})
    assert is_read("finetune.validation", row | {"finetune_settings": '{"lr": [0.1, 0.2]}'})


@pytest.mark.parametrize(
    ("model", "sparsity", "lr", "penalty"),
    [
        ("facebook/opt-125m", 0.3, 2e-4, 0.01),
        ("facebook/opt-125m", 0.6, 2e-4, 0.005),
        ("facebook/opt-125m", 0.65, 2e-4, 0.0032),
        ("facebook/opt-125m", 0.95, 2e-4, 0.001),
        ("embedded", 0.3, 1e-3, 0.01),
        ("embedded", 0.7, 1.7e-3, 0.01),
        ("embedded", 0.8, 2.3e-3, 0.0032),
        ("embedded", 0.95, 3e-3, 0.001),
    ],
)
def test_default_rate_and_penalty_follow_the_sparsity(model, sparsity, lr, penalty):
    found = JointConfig().at(sparsity, model)
    assert (found.lr, found.penalty) == (lr, penalty)
    given = JointConfig(lr=(0.1, 0.2), penalty=0.5)
    assert given.at(sparsity, model) == given


def test_penalties_that_follow_the_sparsity_lie_on_one_curve(tiny_opt_dir, folder):
    sweep = walked.walk(config_of(tiny_opt_dir, folder, sparsities=(0.5, 0.6, 0.7)))
    rows = [row | {"in_current_grid": True} for row in rows_of(sweep)]
    (curve,) = (curve for curve in curves_from_rows(rows) if curve.method == "elsa")
    assert [point.sparsity for point in curve.points] == [0.5, 0.6, 0.7]
    penalties = {json.loads(row["method_settings"]).get("penalty") for row in rows}
    assert {0.01, 0.005, 0.002} <= penalties


def test_a_default_has_the_identity_of_its_numbers(tiny_opt_dir, folder):
    def stages(joint):
        config = config_of(tiny_opt_dir, folder, {"lr": None} | joint, sparsities=(0.7,))
        return {s.id for s in prepare(config).plan.stages.values()}

    assert stages({}) == stages({"lr": 2e-4, "penalty": 0.002})
    assert stages({}) != stages({"lr": 2e-4, "penalty": 0.01})


@pytest.mark.parametrize(
    ("tokens", "steps", "windows"), [(512, 4_096, 1), (512, 4, 4), (512, 1, 8), (16, 4, 1)]
)
def test_a_training_takes_its_steps_if_it_has_so_many_windows(tokens, steps, windows):
    text = TrainingText("train", "t", 32)
    model = dataclasses.replace(MODEL, finetune=text, batch_is_given=False)
    assert model.step_tokens(steps, tokens) == windows * 32


def test_joint_training_takes_smaller_steps_unless_they_are_given(tiny_opt_dir, folder):
    sizes = []
    for given in (None, 64):
        config = config_of(tiny_opt_dir, folder, finetune={"batch_tokens": given})
        works = [s.work for s in prepare(config).plan.stages.values() if isinstance(s.work, Joint)]
        sizes.append({work.round.batch_tokens for work in works})
    assert sizes == [{32}, {64}]
