"""Trials that repeat a stage, walked one after another without Ray: every row, nothing lost."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from core.config import CalibrationConfig, EvalConfig, FinetuneConfig
from core.ranks import Ranks
from orchestrator import preparation
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from orchestrator.inputs.tokens import save_tokens
from orchestrator.jobs import trial_job
from orchestrator.plan import trials
from orchestrator.plan.job import Job
from orchestrator.plan.planner import Planner
from orchestrator.plan.trials import shared_stages
from orchestrator.trial.walk import Walk


@pytest.fixture
def sweep(tiny_opt_dir, tiny_text_file, tmp_path, one_thread):
    lines = tiny_text_file.read_text(encoding="utf-8").splitlines()
    for name, part in {"train": lines[:28], "test": lines[28:]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
    config = SweepConfig(
        grid=GridConfig(
            models=(str(tiny_opt_dir),), methods=("magnitude",), sparsities=(0.5,), seeds=(0, 1)
        ),
        calibration=CalibrationConfig(),
        finetune=FinetuneConfig(
            text=str(tmp_path / "train.txt"), tokens=256, seq_len=32, batch_tokens=64
        ),
        eval=EvalConfig(texts=(str(tmp_path / "test.txt"),), seq_len=32, max_windows=2),
        resources=ResourceConfig(cpus_per_worker=1),
        output=OutputConfig(out_dir=str(tmp_path / "out"), keep="none"),
    )
    return preparation.prepare(config)


def test_a_seedless_stage_is_walked_by_each_seeds_trial_and_dropped_by_none(sweep, monkeypatch):
    monkeypatch.setattr(trials, "TRIAL_SECONDS", 0.1)
    packed = preparation.trials_of(sweep, dict.fromkeys(sweep.plan.stages, 1.0), 8)
    shared = shared_stages(packed)
    pruned = {s for s in shared if sweep.plan.stages[s].work.changes_masks}
    assert len(pruned) == 1 and len(packed) >= 4
    texts = preparation.read_texts(sweep)
    save_tokens(sweep.store, texts.tokens)
    texts.training.write()
    reported: list[str] = []
    for trial in packed:
        job = trial_job(sweep, trial, shared)
        assert not {*job.drop} & shared
        Walk(job, sweep.store, Ranks.current(), lambda told: reported.append(told["cell"])).run()
    assert sorted(reported) == sorted(sweep.plan.cells), "each cell by one trial"
    rows = sweep.store.rows.read()
    assert len(rows) == len(sweep.plan.row_keys())
    assert {row["status"] for row in rows.values()} == {"done"}
    kept = {s for s, m in sweep.store.stages.manifests().items() if m["files"]}
    assert kept == pruned


@pytest.mark.parametrize(
    ("num_slots", "order"), [(2, "ACBD"), (3, "ACDB"), (4, "ACDB"), (1, "ABCD")]
)
def test_trials_that_share_a_stage_do_not_start_together(num_slots, order):
    stages = {"A": "ax", "B": "bx", "C": "c", "D": "d"}
    made = [
        trials.Trial(name, "m", tuple(SimpleNamespace(id=stage) for stage in its), ())
        for name, its in stages.items()
    ]
    found = trials.apart(made, num_slots)
    assert "".join(trial.id for trial in found) == order


def test_a_job_holds_its_own_trial_alone_and_is_small_when_packed(sweep):
    def packed_sizes(seeds):
        grid = replace(sweep.config.grid, seeds=tuple(range(seeds)))
        whole = preparation.prepare(replace(sweep.config, grid=grid))
        packed = preparation.trials_of(whole, dict.fromkeys(whole.plan.stages, 1000.0), seeds)
        jobs = [trial_job(whole, trial, shared_stages(packed)) for trial in packed]
        assert any(job.drop for job in jobs)
        for job in jobs:
            assert Job.unpacked(job.packed()) == job
            assert job.drop <= {*job.by_id}
        return [len(job.packed()) for job in jobs]

    few, many = packed_sizes(8), packed_sizes(32)
    assert len(many) > 3 * len(few)
    assert max(many) < 1.2 * max(few), "a job does not grow with the sweep that it is of"


def test_jobs_of_thirty_thousand_cells_take_ten_megabytes(sweep, tmp_path, monkeypatch):
    made, to_dict = [], SweepConfig.to_dict
    monkeypatch.setattr(SweepConfig, "to_dict", lambda c: made.append(c) or to_dict(c))
    methods, sparsities = ("magnitude", "wanda", "sparsegpt"), tuple(i / 20 for i in range(1, 20))
    grid = replace(sweep.config.grid, methods=methods, sparsities=sparsities, seeds=(0, 1, 2, 3))
    (tmp_path / "calibration.txt").write_text("A text of its own.\n" * 200, encoding="utf-8")
    calibration = CalibrationConfig(
        text=str(tmp_path / "calibration.txt"), num_samples=8, seq_len=32
    )
    whole = preparation.prepare(replace(sweep.config, grid=grid, calibration=calibration))
    # Of 75 cells each, as 400 trials of 30,000 cells are.
    packed = trials.pack_trials(whole.plan, whole.cells, whole.needed, {}, len(whole.cells) // 75)
    jobs = [trial_job(whole, trial, shared_stages(packed)).packed() for trial in packed]
    assert sum(map(len, jobs)) / len(whole.cells) * 30_000 < 10e6
    assert len(made) == 1, "the settings of a sweep are written as JSON once"


def test_evaluations_of_the_dense_model_stay_in_one_trial(sweep, monkeypatch):
    monkeypatch.setattr(trials, "TRIAL_SECONDS", 0.1)
    text = sweep.models[0].inputs.evaluations[0]
    inputs = replace(sweep.models[0].inputs, evaluations=(text, replace(text, text="other")))
    planner = Planner(sweep.config.grid, sweep.config.prune, sweep.config.finetune)
    plan = planner.build([inputs])
    needed = {stage.id for stage in plan.stages.values() if stage.parent is not None}
    costs = dict.fromkeys(plan.stages, 1.0)
    packed = trials.pack_trials(plan, plan.cells.values(), needed, costs, 8)
    assert sorted(c.id for trial in packed for c in trial.cells) == sorted(plan.cells)
    for trial in packed:
        walked = {stage.id for stage in trial.stages}
        assert all({*cell.all_stages()[1:]} <= walked for cell in trial.cells)
