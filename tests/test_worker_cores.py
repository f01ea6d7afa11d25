"""The cores of a worker where no flag gives them: by time, memory, and what trials there are."""

from dataclasses import replace

import pytest

from orchestrator import worker_cores
from orchestrator.config import GridConfig, OutputConfig, ResourceConfig, SweepConfig
from orchestrator.preparation import Texts, prepare, trials_of
from orchestrator.worker_cores import longest, thread_counts, with_cores


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """The default grid of one method, on a machine of eight cores."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(worker_cores, "num_cores", lambda: 8)
    grid = GridConfig(methods=("wanda",), sparsities=(0.3, 0.5, 0.7, 0.8, 0.9))
    return prepare(SweepConfig(grid=grid, output=OutputConfig(out_dir=str(tmp_path / "out"))))


def cores_of(sweep, seconds, **resources):
    config = replace(sweep.config, resources=ResourceConfig(**resources))
    each = Texts({}, {}, dict.fromkeys(sweep.plan.stages, seconds))
    return with_cores(replace(sweep, config=config), each).resources.cpus_per_worker


def test_short_work_is_one_group_and_long_work_several(sweep):
    assert cores_of(sweep, 0.01) == 8
    assert cores_of(sweep, 100.0) < 8


def test_one_branch_has_all_cores(sweep, monkeypatch):
    def one_trial(sweep, seconds, slots):
        return trials_of(sweep, seconds, 1)

    monkeypatch.setattr(worker_cores, "trials_of", one_trial)
    assert cores_of(sweep, 100.0) == 8


def test_groups_are_as_many_as_memory_holds(sweep, monkeypatch):
    need = worker_cores.memory(*sweep.costs.values(), sweep.trains, 1, sweep.micro_batch_tokens)
    for groups, least in ((1.5, 8), (2.5, 4)):
        total = groups * need / worker_cores.MEMORY_SHARE
        monkeypatch.setattr(worker_cores, "machine_bytes", lambda total=total: total)
        assert cores_of(sweep, 100.0) == least


def test_flags_gpus_clusters_and_measured_speeds_keep_their_rule(sweep, monkeypatch):
    assert cores_of(sweep, 100.0, cpus_per_worker=3) == 3
    assert cores_of(sweep, 100.0, num_workers=2) is None
    assert cores_of(sweep, 100.0, use_gpu=True) is None
    assert cores_of(sweep, 100.0, max_concurrent_trials=1) == 8
    timed = replace(sweep.config, eval=replace(sweep.config.eval, speed=True))
    assert cores_of(replace(sweep, config=timed), 100.0) is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cores_of(sweep, 100.0) is None


def test_the_record_keeps_the_settings_that_were_given(sweep):
    chosen = with_cores(sweep, Texts({}, {}, dict.fromkeys(sweep.plan.stages, 100.0)))
    assert chosen.worker_cores and chosen.config == sweep.config and chosen.id == sweep.id
    assert chosen.settings == sweep.settings


def test_loads_go_to_the_slot_that_is_free_first():
    assert longest([3.0, 2.0, 2.0, 2.0], 2) == 5.0
    assert longest([], 4) == 0.0
    assert [*thread_counts(6)] == [6, 3, 1]
