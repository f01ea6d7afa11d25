"""Two nodes of one core each give the rows of one node with two: the same ranks, further apart."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.results.parquet import read_rows

pytestmark = pytest.mark.sweeps

SCRIPT = Path(__file__).resolve().parents[1] / "experiments" / "sweep_opt.py"
COMPARED = (
    *("method", "regime", "sparsity", "status", "perplexity", "measured_sparsity"),
    *("num_finetune_tokens", "num_workers"),
)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A head without cores and two nodes with one, so that two workers fit on neither."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 2**27}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True, **memory}
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1, **memory)
    yield cluster
    cluster.shutdown()


def rows_of(directory, model, out, **environment):
    command = [
        *(sys.executable, str(SCRIPT), "--models", str(model), "--out-dir", out),
        *("--methods", "sparsegpt", "--regimes", "finetune", "--sparsities", "0.5"),
        *("--calibration.text", "calibration.txt", "--calibration.num-samples", "8"),
        *("--calibration.seq-len", "32", "--finetune.text", "train.txt"),
        *("--finetune.tokens", "512", "--finetune.seq-len", "32", "--finetune.batch-tokens", "128"),
        *("--eval.texts", "test.txt", "--eval.seq-len", "32", "--eval.max-windows", "8"),
        *("--num-workers", "2", "--cpus-per-worker", "1", "--max-concurrent-trials", "1"),
    ]
    environment = {name: v for name, v in os.environ.items() if name != "RAY_ADDRESS"} | environment
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_rows(str(directory / out / "results.parquet"))
    return sorted(tuple(row[name] for name in COMPARED) for row in rows)


@pytest.mark.timeout(600)
def test_two_nodes_of_one_rank_give_the_rows_of_one(cluster, tmp_path, tiny_opt_dir, write_texts):
    write_texts(tmp_path)
    apart = rows_of(tmp_path, tiny_opt_dir, "apart", RAY_ADDRESS=cluster.address)
    cluster.shutdown()
    together = rows_of(tmp_path, tiny_opt_dir, "together")
    assert len(together) == 3 and together[-1][-1] == 2
    assert apart == together
