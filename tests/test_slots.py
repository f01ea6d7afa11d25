"""Slots of a cluster: what is up, what the autoscaler may add, what is waited for."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from orchestrator.cluster import slots
from orchestrator.config import ResourceConfig

SPOT = {"resources": {"CPU": 8, "GPU": 1}, "min_workers": 0, "max_workers": 8}
SCALING = {
    "max_workers": 6,
    "head_node_type": "head",
    "available_node_types": {"head": {"resources": {"CPU": 0}}, "spot": SPOT},
}


@pytest.fixture
def joined(monkeypatch):
    """`joined(scaling, *ups)`: a cluster with an autoscaler's config and what is up, by and by."""

    def join(scaling, *ups):
        answers = iter(ups)
        monkeypatch.setattr(slots, "autoscaling", lambda _: scaling)
        context = SimpleNamespace(gcs_address="")
        monkeypatch.setattr(slots.ray, "get_runtime_context", lambda: context)
        monkeypatch.setattr(slots.ray, "cluster_resources", lambda: next(answers))
        monkeypatch.setattr(slots.time, "sleep", lambda _: None)

    return join


def test_trials_are_counted_by_what_the_autoscaler_may_reach(joined):
    joined(SCALING, {"node:__internal_head__": 1.0})
    gpus = ResourceConfig(use_gpu=True, cpus_per_worker=8)
    assert slots.slots_of_cluster(gpus) == 6
    joined(SCALING, {"CPU": 8.0, "GPU": 1.0})
    with pytest.raises(ValueError, match="--num-workers 7: needs 56 CPU cores; there are 48"):
        slots.slots_of_cluster(ResourceConfig(num_workers=7, cpus_per_worker=8))


def test_machines_that_come_by_themselves_are_waited_for(joined, capsys):
    types = {"own": {"resources": {}, "min_workers": 1, "max_workers": 1}}
    joined({"max_workers": 1, "available_node_types": types}, {}, {}, {}, {"CPU": 4.0})
    assert slots.slots_of_cluster(ResourceConfig(cpus_per_worker=2)) == 2
    assert capsys.readouterr().out == "waiting for the cluster's first worker\n"


def test_a_cluster_that_says_nothing_is_asked_for_what_is_wanted(joined, capsys):
    joined({}, {"node:__internal_head__": 1.0})
    assert slots.slots_of_cluster(ResourceConfig(max_concurrent_trials=3)) == 3
    assert "asking for 3 trials at a time" in capsys.readouterr().out


def test_workers_that_hold_no_trial_are_said_at_once(joined):
    joined({}, {"CPU": 1.0})
    with pytest.raises(ValueError, match="--num-workers 1: needs 2 CPU cores; there are 1"):
        slots.slots_of_cluster(ResourceConfig(cpus_per_worker=2))


def test_the_autoscalers_file_is_found_by_its_process(tmp_path):
    config = tmp_path / "scaling.yaml"
    config.write_text("max_workers: 3\n")
    address = "192.0.2.77:6379"
    flags = [f"--gcs-address={address}", f"--autoscaling-config={config}"]
    script = "print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script, *flags], **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()  # Its command line can be read once it runs.
        assert slots.autoscaling(address) == {"max_workers": 3}
        assert slots.autoscaling("192.0.2.78:6379") == {}
