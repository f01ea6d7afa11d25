"""Slots of a cluster: counted node by node, what the autoscaler may add, what is waited for."""

import subprocess
import sys
from dataclasses import dataclass, replace

import pytest

from core.checks import BadInputError
from orchestrator.cluster import reach as reach_module
from orchestrator.cluster import slots, worker
from orchestrator.cluster.reach import HEAD, Reach, WorkerShape, autoscaling, reach_from
from orchestrator.config import ResourceConfig
from orchestrator.estimate.machine import Node
from orchestrator.plan.job import Workers

SPOT = {"resources": {"CPU": 8, "GPU": 1}, "min_workers": 0, "max_workers": 8}
SCALING = {
    "max_workers": 6,
    "head_node_type": "head",
    "available_node_types": {"head": {"resources": {"CPU": 0}}, "spot": SPOT},
}


def nodes(*counts, head=None, alive=True):
    """Nodes as Ray tells them: (CPU, GPU) of each, and of the head."""
    found = [{"Alive": alive, "Resources": {"CPU": c, "GPU": g}} for c, g in counts]
    cores = {} if head is None else {"CPU": head}
    return [{"Alive": True, "Resources": {HEAD: 1.0, **cores}}, *found]


def of(*counts, **resources):
    return slots.num_slots(ResourceConfig(**resources), reach_from(nodes(*counts), {}))


COUNTED = [
    (4 * [(3, 0)], {"cpus_per_worker": 2}, 4),
    (4 * [(3, 0)], {"cpus_per_worker": 2, "num_workers": 3}, 1),
    (4 * [(1, 0)], {"cpus_per_worker": 1, "num_workers": 4}, 1),
    ([(8, 0), (2, 0)], {"cpus_per_worker": 4}, 2),
    ([(8, 2)], {"cpus_per_worker": 1, "use_gpu": True, "gpus_per_worker": 0.6}, 2),
    ([(8, 1), (8, 3)], {"cpus_per_worker": 1, "use_gpu": True, "gpus_per_worker": 2.0}, 1),
    ([(64, 1)], {"cpus_per_worker": 1, "use_gpu": True, "gpus_per_worker": 0.2}, 5),
    ([(64, 1)], {"cpus_per_worker": 1, "use_gpu": True, "gpus_per_worker": 0.1}, 10),
    ([(64, 1)], {"cpus_per_worker": 1, "use_gpu": True, "gpus_per_worker": 0.3}, 3),
    ([(64, 8)], {"cpus_per_worker": 8, "use_gpu": True, "num_workers": 2}, 4),
    ([(2, 4), (64, 1)], {"cpus_per_worker": 2, "use_gpu": True}, 2),
]


@pytest.mark.parametrize(("counts", "resources", "expected"), COUNTED)
def test_trials_are_counted_node_by_node(counts, resources, expected):
    assert of(*counts, **resources) == expected


GPU = {"use_gpu": True, "cpus_per_worker": 1}
REFUSED = [
    (
        16 * [(8, 0)],
        {"cpus_per_worker": 64},
        "--cpus-per-worker 64: no node has 64 CPU cores; the most are 8",
    ),
    (
        4 * [(4, 1)],
        {**GPU, "gpus_per_worker": 2.0},
        "--gpus-per-worker 2: no node has 2 GPUs; the most are 1",
    ),
    (4 * [(4, 0)], GPU, "--use-gpu: no node has a GPU"),
    (
        4 * [(3, 0)],
        {"cpus_per_worker": 2, "num_workers": 5},
        "--num-workers 5: only 4 workers with 2 CPU cores each fit on the nodes",
    ),
    (
        [(2, 0), (1, 1)],
        {"use_gpu": True, "cpus_per_worker": 2},
        "--use-gpu: no node has 2 CPU cores and 1 GPU",
    ),
    (
        [(8, 2)],
        {**GPU, "gpus_per_worker": 1.5},
        "--gpus-per-worker 1.5: above 1, use whole GPUs",
    ),
    (
        [(8, 2)],
        {**GPU, "gpus_per_worker": 1e-5},
        "--gpus-per-worker 1e-05: Ray's smallest part of a GPU is 0.0001",
    ),
]


@pytest.mark.parametrize(("counts", "resources", "line"), REFUSED)
def test_what_can_never_fit_is_refused_in_one_line(counts, resources, line):
    with pytest.raises(BadInputError) as refused:
        of(*counts, **resources)
    assert str(refused.value) == line


def test_lost_nodes_hold_nothing():
    lost = nodes((8, 0), alive=False)[1:]
    assert reach_from([*nodes((2, 0)), *lost], {}).num_workers(WorkerShape(2)) == 1


def grown(total, **types):
    """Reach of an autoscaler over (CPU, GPU, min_workers, max_workers) of each type."""
    available = {
        name: {"resources": {"CPU": c, "GPU": g}, "min_workers": least, "max_workers": most}
        for name, (c, g, least, most) in types.items()
    }
    return reach_from(nodes(), {"max_workers": total, "available_node_types": available})


def test_node_types_share_the_autoscalers_total():
    shape = WorkerShape(8)
    assert grown(10, a=(8, 0, 0, 10), b=(8, 0, 0, 10)).num_workers(shape) == 10
    assert grown(10, a=(8, 0, 0, 10), b=(16, 0, 0, 4)).num_workers(shape) == 2 * 4 + 6
    assert grown(10, a=(8, 0, 9, 10), b=(32, 0, 0, 4)).num_workers(shape) == 9 + 4
    assert grown(10, a=(4, 0, 0, 10)).num_workers(shape) == 0


def test_a_type_without_a_limit_has_the_total_and_the_head_none():
    scaling = {
        "max_workers": 3,
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 8}},
            "spot": {"resources": {"CPU": 8}},
        },
    }
    assert reach_from(nodes(head=8), scaling).num_workers(WorkerShape(8)) == 1 + 3


@pytest.fixture
def joined(monkeypatch):
    """`joined(scaling, *ups)`: a cluster with an autoscaler's config and nodes up, by and by."""

    def join(scaling, *ups):
        answers = iter(ups)
        monkeypatch.setattr(slots, "reach_of_cluster", lambda: reach_from(next(answers), scaling))
        monkeypatch.setattr(slots.time, "sleep", lambda _: None)

    return join


def test_trials_are_counted_by_what_the_autoscaler_may_reach(joined):
    gpus = ResourceConfig(use_gpu=True, cpus_per_worker=8)
    joined(SCALING, nodes())
    assert slots.slots_of_cluster(gpus).count == 6
    joined(SCALING, nodes((8, 1)))
    with pytest.raises(ValueError, match="--num-workers 7: only 6 workers with 8 CPU cores"):
        slots.slots_of_cluster(ResourceConfig(num_workers=7, cpus_per_worker=8))


def test_machines_that_come_by_themselves_are_waited_for(joined, capsys):
    types = {"own": {"resources": {}, "min_workers": 1, "max_workers": 1}}
    joined({"max_workers": 1, "available_node_types": types}, nodes(), nodes(), nodes((4, 0)))
    assert slots.slots_of_cluster(ResourceConfig(cpus_per_worker=2)).count == 2
    assert capsys.readouterr().out == "waiting for the cluster's first worker\n"


def test_a_cluster_that_says_nothing_is_asked_for_what_is_wanted(joined, capsys):
    joined({}, nodes())
    found = slots.slots_of_cluster(ResourceConfig(max_concurrent_trials=3))
    assert found.count == 3 and found.grows_unseen
    assert "asking for 3 trials at a time" in capsys.readouterr().out


def test_workers_that_hold_no_trial_are_said_at_once(joined):
    joined({}, nodes((1, 0)))
    with pytest.raises(ValueError, match="--cpus-per-worker 2: no node has 2 CPU cores"):
        slots.slots_of_cluster(ResourceConfig(cpus_per_worker=2))


SHAPES = [
    (nodes((8, 0), (8, 0), head=2), {}, 8),
    (nodes((8, 0), (8, 0), head=2), {"num_workers": 2}, 4),
    (nodes(*4 * [(2, 0)], head=64), {"num_workers": 4}, 1),
    (nodes(head=6), {}, 6),
    (nodes(*8 * [(64, 0)], (2, 0)), {}, 64),
    (nodes((16, 0), (8, 0)), {}, 8),
    (nodes((96, 8), (4, 0), (4, 0)), {"use_gpu": True}, 12),
    (nodes((96, 8)), {"use_gpu": True, "gpus_per_worker": 0.5}, 6),
    (nodes((96, 8)), {"use_gpu": True, "cpus_per_worker": 3}, 3),
]


@pytest.mark.parametrize(("up", "resources", "threads"), SHAPES)
def test_cores_of_a_worker_come_from_the_workers_nodes(up, resources, threads):
    shape = slots.shape_of(ResourceConfig(**resources), reach_from(up, {}))
    assert shape.cpus == threads


def test_a_job_knows_its_cores_and_the_workers_beside_it():
    @dataclass(frozen=True)
    class Trial:
        workers: Workers = Workers("cpu", 2, 99, micro_batch_tokens=1, memory_bytes=1.0)

    found = slots.Slots(5, WorkerShape(4), num_workers=2)
    workers = found.settle(Trial(), 3).workers  # type: ignore[arg-type]
    assert workers == replace(Trial().workers, threads=4, at_once=6)
    assert found.settle(Trial(), 9).workers.at_once == 10  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("node", "resources", "expected"),
    [
        (Node(8), {"at_once": 3}, 3),
        (Node(8), {"at_once": 40}, 4),
        (Node(8), {"at_once": None}, 4),
        (Node(1), {"at_once": 40}, 1),
        (Node(64, 2), {"device": "cuda", "gpus": 0.5, "at_once": 40}, 4),
    ],
)
def test_a_worker_shares_its_node_with_those_that_fit_it(monkeypatch, node, resources, expected):
    monkeypatch.setattr(worker, "own_node", lambda: node)
    given = {"device": "cpu", "num_workers": 2, "threads": 2, **resources}
    group = Workers(micro_batch_tokens=1, memory_bytes=1.0, **given)
    assert worker.on_this_node(group).at_once == expected


def test_a_cluster_whose_autoscaler_is_not_seen_may_grow(monkeypatch):
    monkeypatch.setattr(reach_module, "autoscaling", lambda _: {})
    monkeypatch.setattr(reach_module.ray, "nodes", lambda: nodes((1, 0)))
    monkeypatch.setattr(reach_module.ray, "get_runtime_context", lambda: sys)
    monkeypatch.setattr(sys, "gcs_address", "", raising=False)
    monkeypatch.delenv(reach_module.KUBERAY, raising=False)
    assert reach_module.reach_of_cluster() == Reach((Node(1, 0),))
    monkeypatch.setenv(reach_module.KUBERAY, "1")
    assert reach_module.reach_of_cluster().may_hold_more()


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
        assert autoscaling(address) == {"max_workers": 3}
        assert autoscaling("192.0.2.78:6379") == {}


@pytest.mark.parametrize("gpus", [1.5, 0.00001])
def test_a_dry_run_refuses_parts_of_gpus_that_no_machine_has(gpus):
    with pytest.raises(BadInputError, match="--gpus-per-worker"):
        slots.planned_slots(ResourceConfig(use_gpu=True, gpus_per_worker=gpus))
