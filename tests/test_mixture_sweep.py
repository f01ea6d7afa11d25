"""A mixture of experts through a whole sweep without Ray: identities, records, files, training."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import Qwen3MoeConfig

from core.calibration_config import ExpertTokens
from core.checks import BadInputError
from core.config import CalibrationConfig, EvalConfig, FinetuneConfig, PruneConfig
from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from orchestrator.plan.inputs import CalibrationText, Draw
from orchestrator.preparation import prepare

walk = runpy.run_path(str(Path(__file__).with_name("walked.py")))["walk"]
SIZES = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG = Qwen3MoeConfig(
    **SIZES,
    num_key_value_heads=2,
    head_dim=8,
    moe_intermediate_size=16,
    intermediate_size=16,
    num_experts=4,
    num_experts_per_tok=2,
    max_position_embeddings=128,
    initializer_range=0.2,
)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def sweep_config(make_model_dir, write_texts, tmp_path):
    """Return a small sweep of a random Qwen3-MoE."""
    write_texts(tmp_path)
    model = make_model_dir(CONFIG)

    def make(**calibration) -> SweepConfig:
        return SweepConfig(
            grid=GridConfig(
                models=(str(model),),
                methods=("wanda", "sparsegpt"),
                sparsities=(0.25, 0.5),
                mask_structures=("2:4",),
                regimes=("oneshot", "iterative"),
            ),
            calibration=CalibrationConfig(
                text=str(tmp_path / "calibration.txt"), num_samples=4, seq_len=32, **calibration
            ),
            finetune=FinetuneConfig(text=str(tmp_path / "train.txt"), tokens=256, batch_tokens=128),
            eval=EvalConfig(texts=(str(tmp_path / "test.txt"),), seq_len=32, max_windows=4),
            resources=ResourceConfig(cpus_per_worker=1),
            output=OutputConfig(out_dir=str(tmp_path / "out"), keep="all"),
        )

    return make


def test_a_sweep_prunes_trains_records_and_gives_a_model(sweep_config):
    sweep = walk(sweep_config())
    rows = sweep.store.rows.read().values()
    assert {row["error"] for row in rows} == {None}
    for row in rows:
        assert row["measured_sparsity"] == pytest.approx(row["sparsity"], abs=1e-9)
    prunes = [m for m in sweep.store.stages.manifests().values() if "matrices" in m["metrics"]]
    for manifest in prunes:
        counts = manifest["metrics"]["expert_tokens"]
        assert {len(each) for each in counts.values()} == {4}
        assert [*counts] == [f"model.layers.{i}.mlp.experts" for i in range(2)]
        assert {sum(each) for each in counts.values()} == {2 * 4 * 32}
    stage = next(row for row in rows if row["mask_structure"] and row["regime"] == "iterative")
    with sweep.store.stages.at(stage["stage_id"]).opened() as directory:
        again = load_model(directory, torch.float32)
    matrices = prunable_matrices(again)
    assert len(matrices) == 2 * (4 + 4 * 3)
    for matrix in matrices.values():
        zeros = (matrix.read() == 0).view(matrix.rows, -1, 4).sum(2)
        assert (zeros == 2).all()


def test_a_sweep_prunes_routers_if_asked_to(sweep_config):
    config = sweep_config()
    usual = prepare(config).plan.stages
    config = replace(config, prune=PruneConfig(routers=True))
    grid = replace(config.grid, methods=("wanda",), sparsities=(0.5,), mask_structures=())
    sweep = walk(replace(config, grid=grid))
    rows = [row for row in sweep.store.rows.read().values() if row["sparsity"]]
    assert rows and {row["stage_id"] for row in rows}.isdisjoint(usual)
    for row in rows:
        assert json.loads(row["method_settings"])["routers"] is True
        assert row["measured_sparsity"] == 0.5 and row["error"] is None
        with sweep.store.stages.at(row["stage_id"]).opened() as directory:
            gates = prunable_matrices(load_model(directory, torch.float32), routers=True)
        assert all((gates[f"model.layers.{i}.mlp.gate"].read() == 0).sum() == 64 for i in range(2))


def test_settings_of_experts_enter_identities_and_rows(sweep_config):
    stages = [
        {s for s in prepare(sweep_config(**settings)).plan.stages}
        for settings in ({}, {"pseudo_tokens": 1.0}, {"all_experts": True}, {"pseudo_tokens": 0.0})
    ]
    assert stages[0] == stages[1]
    # Those of the dense model stay: itself, its rounds of training, their evaluations.
    assert stages[0] & stages[2] == stages[0] & stages[3] == stages[2] & stages[3]
    assert len(stages[0] & stages[2]) == 6
    config = sweep_config(all_experts=True)
    sweep = walk(config)
    pruned = [row for row in sweep.store.rows.read().values() if row["sparsity"]]
    assert all(json.loads(row["method_settings"])["all_experts"] for row in pruned)


def test_calibration_of_models_without_experts_keeps_its_identity():
    text = CalibrationText("c4", "abc", 4, 32, "stream")
    mixture = CalibrationText("c4", "abc", 4, 32, "stream", experts=ExpertTokens())
    assert "experts" not in text.fields()
    assert mixture.fields()["experts"] == {"version": 1, "all_experts": False, "pseudo_tokens": 1.0}
    assert Draw(text, 0).tokens_key() == Draw(mixture, 0).tokens_key()


def test_pruning_of_routers_is_refused_where_no_model_has_any(two_cells):
    config = replace(two_cells, prune=PruneConfig(routers=True))
    with pytest.raises(BadInputError, match="--prune.routers True: no model .*router or gate"):
        prepare(config)


def test_a_flag_for_experts_is_refused_where_no_model_has_any(two_cells):
    for settings, flag in (
        ({"all_experts": True}, "all-experts"),
        ({"pseudo_tokens": 1.0}, "pseudo-tokens"),
    ):
        config = two_cells
        object.__setattr__(config, "calibration", CalibrationConfig(**settings))
        with pytest.raises(BadInputError, match=f"--calibration.{flag} .*has experts"):
            prepare(config)


def test_low_rank_updates_of_experts_are_refused(sweep_config):
    config = sweep_config()
    config = replace(config, finetune=replace(config.finetune, trainable="masklora"))
    with pytest.raises(BadInputError, match="cannot train experts; use all or bias_norm"):
        prepare(config)
