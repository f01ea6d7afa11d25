"""Two nodes of one core each give the rows of two ranks without Ray: the same, further apart."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import two_ranks
from walked import jobs_of

from orchestrator.cli import parse
from orchestrator.cluster.connection import free_port
from orchestrator.config import SweepConfig
from orchestrator.out_dir import mark
from orchestrator.plan.job import Job
from orchestrator.preparation import prepare
from orchestrator.store.store import Store
from orchestrator.trial.walk import Walk

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
    head = {"num_cpus": 0, "include_dashboard": True, "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head | memory)
    for _ in range(2):
        cluster.add_node(num_cpus=1, **memory)
    yield cluster
    cluster.shutdown()


def flags(directory, model, out):
    return [
        *("--models", str(model), "--out-dir", str(directory / out)),
        *("--methods", "sparsegpt", "--regimes", "finetune", "--sparsities", "0.5"),
        *("--calibration.text", str(directory / "calibration.txt")),
        *("--calibration.num-samples", "8", "--calibration.seq-len", "32"),
        *("--finetune.text", str(directory / "train.txt"), "--finetune.tokens", "512"),
        *("--finetune.seq-len", "32", "--finetune.batch-tokens", "128"),
        *("--eval.texts", str(directory / "test.txt"), "--eval.seq-len", "32"),
        *("--eval.max-windows", "8"),
        *("--num-workers", "2", "--cpus-per-worker", "1", "--max-concurrent-trials", "1"),
    ]


def rows_of(out):
    rows = Store(str(out)).rows.read().values()
    return sorted(tuple(row[name] for name in COMPARED) for row in rows)


def scenario(ranks, out):
    """Walk the jobs in the folder above as one of two ranks, without Ray."""
    for file in sorted(out.parent.glob("*.job")):
        job = Job.unpacked(file.read_bytes())
        Walk(job, Store(job.store_root), ranks, lambda told: None).run()


@pytest.mark.timeout(600)
def test_two_nodes_of_one_rank_give_the_rows_of_two_ranks(
    cluster, tmp_path, tiny_opt_dir, write_texts
):
    write_texts(tmp_path)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *flags(tmp_path, tiny_opt_dir, "apart")],
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cluster.shutdown()
    sweep = prepare(parse(SweepConfig(), flags(tmp_path, tiny_opt_dir, "together"), ""))
    mark(sweep.store)
    for job in jobs_of(sweep):
        (tmp_path / f"{job.id}.job").write_bytes(job.packed())
    two_ranks.start(__file__, tmp_path, 2)
    apart, together = rows_of(tmp_path / "apart"), rows_of(tmp_path / "together")
    assert len(together) == 3 and together[-1][-1] == 2
    assert apart == together
