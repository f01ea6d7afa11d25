"""Blocks without halves, which reconstruction trains whole: said once, and recorded."""

from __future__ import annotations

import logging

import pytest
from transformers import GPTNeoXConfig

from core.config import CalibrationConfig, EvalConfig, FinetuneConfig
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from tests.walked import walk

CONFIG = GPTNeoXConfig(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=128,
    initializer_range=0.2,
)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("halves", [False, True])
def test_a_trial_says_once_that_blocks_are_trained_whole(
    halves, make_model_dir, tiny_llama_dir, write_texts, tmp_path, caplog
):
    write_texts(tmp_path)
    model = tiny_llama_dir if halves else make_model_dir(CONFIG)
    config = SweepConfig(
        grid=GridConfig(
            models=(str(model),),
            methods=("magnitude",),
            sparsities=(0.3, 0.5),
            regimes=("iterative",),
        ),
        calibration=CalibrationConfig(
            text=str(tmp_path / "calibration.txt"), num_samples=4, seq_len=32
        ),
        finetune=FinetuneConfig(
            text=str(tmp_path / "train.txt"),
            tokens=256,
            batch_tokens=128,
            seq_len=32,
            objective="reconstruct",
        ),
        eval=EvalConfig(texts=(str(tmp_path / "test.txt"),), seq_len=32, max_windows=4),
        resources=ResourceConfig(cpus_per_worker=1),
        output=OutputConfig(out_dir=str(tmp_path / "out")),
    )
    with caplog.at_level(logging.WARNING):
        sweep = walk(config)
    said = [r.message for r in caplog.records if "reconstruction trains each" in r.message]
    line = "2 blocks have no two halves: reconstruction trains each of them as a whole"
    assert said == ([] if halves else [line])
    manifests = sweep.store.stages.manifests().values()
    rounds = [m["metrics"] for m in manifests if m["kind"] == "finetune"]
    assert len(rounds) >= 2
    assert {one.get("whole_blocks", 0) for one in rounds} == {0 if halves else 2}
