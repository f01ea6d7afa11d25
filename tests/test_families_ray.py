"""Models of three families in one sweep through Ray: flags, rows, speeds and saved models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPTNeoXConfig, Qwen3MoeConfig

from core.models.blocks import prunable_matrices
from core.models.loading import load_model
from orchestrator.store.store import Store

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "sweep_opt.py"
WIDE = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE |= {"max_position_embeddings": 128, "initializer_range": 0.2}
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "pythia": GPTNeoXConfig(**WIDE, intermediate_size=64),
    "qwen3-moe": Qwen3MoeConfig(
        **WIDE, num_key_value_heads=2, head_dim=8, moe_intermediate_size=16, num_experts=4,
        num_experts_per_tok=2,
    ),
}  # fmt: skip
pytestmark = [pytest.mark.sweeps, pytest.mark.timeout(900)]


def test_gpt2_pythia_and_a_mixture_run_in_one_sweep(make_model_dir, write_texts, tmp_path):
    write_texts(tmp_path)
    for name, config in CONFIGS.items():
        (tmp_path / name).symlink_to(make_model_dir(config))
    flags = [
        *("--models", *CONFIGS, "--out-dir", "out", "--methods", "sparsegpt"),
        *("--regimes", "oneshot", "--sparsities", "0.5", "--keep", "all"),
        *("--calibration.num-samples", "4", "--calibration.text", "calibration.txt"),
        *("--calibration.seq-len", "32", "--eval.texts", "test.txt"),
        *("--eval.seq-len", "32", "--eval.max-windows", "4", "--eval.speed"),
    ]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *flags],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    store = Store(str(tmp_path / "out"))
    rows = [row for row in store.rows.read().values() if row["sparsity"]]
    assert {(row["model"], row["status"]) for row in rows} == {(n, "done") for n in CONFIGS}
    for row in rows:
        assert row["measured_sparsity"] == pytest.approx(0.5, abs=1e-3)
        assert row["prefill_seconds"] > 0 and row["decode_seconds"] > 0, row["model"]
        with store.stages.at(row["stage_id"]).opened() as directory:
            model = load_model(directory, torch.float32)
        for matrix in prunable_matrices(model).values():
            assert int((matrix.read() == 0).sum()) == matrix.numel // 2, matrix.name
