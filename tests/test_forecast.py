"""The words of a dry run: the setting that changed, memory by part, hours, workers, price."""

import dataclasses
import re
import sys

import pytest
import torch
from transformers import OPTConfig

from core.config import FinetuneConfig, PruneConfig
from core.models.description import describe_model
from core.models.sources import EMBEDDED_DIR, ModelSource, local_source
from core.precision import training_dtype
from orchestrator import cli
from orchestrator.config import GridConfig, SweepConfig
from orchestrator.estimate import forecast
from orchestrator.estimate.devices import GPUS
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.estimate.rates import measured_rates
from orchestrator.plan.changed_settings import StoredStages, changes, flat
from orchestrator.plan.inputs import CalibrationText, EvaluationText, ModelInputs, TrainingText
from orchestrator.plan.planner import Planner


def inputs(identity="m1", **calibration) -> ModelInputs:
    fields = {"text": "t" * 64, "num_samples": 8, "seq_len": 16, "sampling": "stream"}
    text = CalibrationText("cal", **(fields | calibration))
    return ModelInputs(
        name="m",
        identity=identity,
        dtype="float32",
        training_dtype="float32",
        calibration=text,
        finetune=TrainingText("train", "f", 16),
        finetune_tokens=1000,
        batch_tokens=64,
        evaluations=(EvaluationText("test", "e", 16, 16),),
    )


def plan_of(model=None, finetune=None, **grid):
    grid = {"sparsities": (0.5, 0.7), "methods": ("sparsegpt",), **grid}
    planner = Planner(GridConfig(**grid), PruneConfig(), finetune or FinetuneConfig())
    return planner.build([model or inputs()])


def stored(plan) -> dict:
    return {
        s.id: {name: getattr(s, name) for name in ("kind", "method", "model", "fields", "parent")}
        for s in plan.stages.values()
        if s.parent is not None
    }


def said(now, before, regime="iterative", sparsity=0.7) -> list[str]:
    (cell,) = [c for c in now.cells.values() if (c.regime, c.target.sparsity) == (regime, sparsity)]
    manifests = stored(before)
    return changes(now, cell, set(now.stages) - set(manifests), StoredStages(manifests))


CHANGES = [
    ({"model": inputs(num_samples=4)}, ["calibration.num_samples was 8, is 4"]),
    ({"model": inputs(text="u" * 64)}, ["calibration.text changed"]),
    ({"model": inputs("m2")}, ["the model or its dtype changed"]),
    ({"finetune": FinetuneConfig(lr=1e-5)}, ["lr was 0.0003, is 1e-05"]),
]


@pytest.mark.parametrize(("change", "line"), CHANGES, ids=lambda value: str(value)[:20])
def test_the_field_of_the_identity_that_changed_is_named(change, line):
    assert FinetuneConfig().lrs == (0.0003,)
    assert said(plan_of(**change), plan_of()) == line


def test_nothing_is_said_of_a_point_that_never_was():
    assert said(plan_of(sparsities=(0.5, 0.9)), plan_of(), sparsity=0.9) == []
    assert said(plan_of(seeds=(1,)), plan_of()) == []


def test_a_sparsity_inserted_below_changes_the_path():
    now = plan_of(sparsities=(0.3, 0.5, 0.7))
    assert "the path before it changed" in said(now, plan_of())


@pytest.fixture(scope="module")
def embedded() -> ModelCost:
    source = local_source("embedded", EMBEDDED_DIR)
    return ModelCost(describe_model(source), inputs(seq_len=256), "cpu")


def test_phases_and_their_parts_fit_a_terminal(embedded):
    lines = forecast.memory_lines(embedded, True, 1, 2048)
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:]] == ["evaluate", "prune", "finetune"]
    for line in lines[1:]:
        *parts, whole = map(float, line.split()[1:])
        assert sum(parts) < whole < sum(parts) + 0.6  # and the interpreter with its libraries


def test_price_is_hours_times_rate_and_workers_are_those_that_fit(embedded, tmp_path):
    plan = plan_of()
    costs = {"here": embedded} | {name: forecast.on_gpu(embedded, name) for name in GPUS}
    stages = [stage for stage in plan.stages.values() if stage.parent is not None]
    lines = forecast.work_lines(costs, stages, {}, True, 1000.0)
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line for line in lines}
    hours = [float(word) for word in re.findall(r"([\d.]+) h", rows["hours"])]
    prices = [float(word) for word in rows["price"].split()[5:]]
    assert prices == pytest.approx([1000 * h for h in hours[1:]], abs=0.51)
    assert rows["fewest"].split()[2:] == ["1"] * len(GPUS)
    # OPT-13B: 16 bytes for each of 13e9 parameters are nine cards of 24 GB by themselves.
    shape = {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40}
    OPTConfig(**shape, ffn_dim=20480, word_embed_proj_dim=5120).save_pretrained(tmp_path)
    large = describe_model(ModelSource("m", str(tmp_path), None, "m"))
    card = forecast.on_gpu(dataclasses.replace(embedded, facts=large), "A10G")
    assert int(forecast.workers(card, "A10G", trains=True)) >= 16


def test_a_dry_run_prices_a_cluster_that_is_not_there(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(forecast, "on_this_machine", lambda *_: None)
    flags = ["--use-gpu", "--num-workers", "8", "--price-per-gpu-hour", "2", "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["sweep_opt.py", *flags, "--out-dir", str(tmp_path / "o")])
    assert cli.main(SweepConfig(), "") == 0
    out = capsys.readouterr().out
    assert "price at 2 an hour" in out and "H100" in out and "kept models" in out
    assert max(map(len, out.splitlines())) <= 80
    assert not (tmp_path / "o").exists()


def test_a_price_without_a_dry_run_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sweep_opt.py", "--price-per-gpu-hour", "2"])
    assert cli.main(SweepConfig(), "") == 2
    assert "only --dry-run prints it" in capsys.readouterr().err


def test_a_plan_for_gpus_elsewhere_trains_in_bf16(monkeypatch):
    # A cluster's head has no GPU, and its plan must name what the workers will do.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training_dtype("auto", torch.device("cuda")) == "bfloat16"


def test_this_machine_is_timed_on_the_models_own_blocks(tiny_llama_dir):
    source = local_source("tiny", tiny_llama_dir)
    facts = describe_model(source)
    rates = measured_rates(source, facts, "float32", "bfloat16", torch.device("cpu"))
    assert rates.keys() == {"forward float32", "training bfloat16", "float32"}
    assert all(1e6 < rate < 1e15 for rate in rates.values())
    cost = ModelCost(facts, inputs(), "cpu", rates)
    assert cost.rate("training", "bfloat16") == rates["training bfloat16"]
    assert cost.rate("solve", "float32") == rates["float32"]


def test_a_missing_stage_is_compared_with_those_at_its_place_alone():
    def most(num_seeds):
        plan = plan_of(model=inputs(), seeds=tuple(range(num_seeds)))
        index = StoredStages(stored(plan))
        return max(len(index.near(stage, flat(stage.fields))) for stage in plan.stages.values())

    assert most(8) == most(1) <= 2
