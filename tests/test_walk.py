"""The walk over a trial whose stages compute nothing: what it reads, writes and reports."""

import runpy
from collections import Counter
from pathlib import Path

import pytest

from core.pruners.pruner import PruningError
from orchestrator.store.manifests import MANIFEST
from orchestrator.store.store import Store

_stand_in = runpy.run_path(str(Path(__file__).with_name("stand_in_walk.py")))
job_of, walk = _stand_in["job_of"], _stand_in["walk"]


@pytest.fixture
def reads(monkeypatch):
    """Number of times that each file was read."""
    counts = Counter()
    read = Store.__init__.__globals__["Files"].try_read

    def count(self, *parts):
        data = read(self, *parts)
        counts[parts, data is not None] += 1
        return data

    monkeypatch.setattr(Store.__init__.__globals__["Files"], "try_read", count)
    return counts


def manifest_reads(reads, found):
    """Return how often each manifest was read that was there, or was not."""
    return {p: n for (p, there), n in reads.items() if p[-1] == MANIFEST and there is found}


def test_a_walk_reads_each_manifest_once(tmp_path, reads):
    counts = []
    for seeds in (1, 4):
        reads.clear()
        job = job_of(tmp_path / f"{seeds}", methods=("wanda",), seeds=range(seeds))
        computed = []
        reported = walk(job, computed.append)
        assert [s.id for s in computed] == [s.id for s in job.stages]
        assert sorted(told["cell"] for told in reported) == sorted(c.id for c in job.cells)
        assert {*manifest_reads(reads, True).values()} == {1}
        assert max(manifest_reads(reads, False).values()) <= 3
        counts.append(sum(reads.values()) / len(job.stages))
    assert counts[1] < 1.2 * counts[0], "reads of a stage do not grow with the trial"


def test_a_walk_over_a_finished_trial_reads_each_manifest_once_and_computes_nothing(
    tmp_path, reads
):
    job = job_of(tmp_path)
    walk(job, lambda stage: None)
    reads.clear()
    reported = walk(job, lambda stage: pytest.fail(f"{stage} again"))
    assert len(reported) == len(job.cells)
    assert {*manifest_reads(reads, True).values()} == {1}
    assert not manifest_reads(reads, False)


def test_a_failed_stage_ends_its_cells_at_once_and_no_others(tmp_path):
    job = job_of(tmp_path, methods=("wanda", "magnitude"))
    broken = next(s for s in job.stages if s.work.trains and s.method == "wanda")

    def fail(stage):
        if stage.id == broken.id:
            raise PruningError("no")

    status = {told["cell"]: told["status"] for told in walk(job, fail)}
    for cell in job.cells:
        hit = broken.id in cell.all_stages()
        expected = "failed" if len(cell.stages) == 3 else "not_run"
        assert status[cell.id] == (expected if hit else "done")
    assert {*status.values()} == {"done", "failed", "not_run"}
