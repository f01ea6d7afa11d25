"""Cores and memory of the container that this process runs in, not of the whole machine."""

import os

import psutil
import pytest
import torch

from orchestrator.config import ResourceConfig
from orchestrator.estimate import devices, machine
from orchestrator.estimate.devices import cpus_per_worker, processes_here, usable_bytes
from orchestrator.estimate.machine import Node, machine_bytes, num_cores

GIB = 2**30


@pytest.fixture
def container(monkeypatch, tmp_path):
    """`container(own, files)`: a machine of 64 cores and 256 GiB with the limits of these files."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.delenv(machine.ALL_CORES, raising=False)
    memory = type("Memory", (), {"total": 256 * GIB})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)

    def make(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
        monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")

    return make


FIRST = "3:memory:/docker/7\n2:cpu,cpuacct:/docker/7\n0::/\n"
LIMITS = [
    ("0::/", {"cpu.max": "400000 100000", "memory.max": f"{8 * GIB}"}, 4, 8),
    ("0::/", {"cpu.max": "max 100000", "memory.max": "max"}, 64, 256),
    ("0::/", {"cpu.max": "250000 100000"}, 2, 256),
    ("0::/", {"cpu.max": "50000 100000"}, 1, 256),
    ("0::/job/step", {"job/cpu.max": "800000 100000", "job/step/memory.max": f"{GIB}"}, 8, 1),
    ("0::/job", {"job/memory.max": f"{4 * GIB}", "memory.max": f"{2 * GIB}"}, 64, 2),
    (
        FIRST,
        {
            "cpu/cpu.cfs_quota_us": "300000\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": f"{6 * GIB}\n",
        },
        3,
        6,
    ),
    (FIRST, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64, 256),
]


@pytest.mark.parametrize(("own", "files", "cores", "gib"), LIMITS)
def test_limits_of_a_container_are_found(container, own, files, cores, gib):
    container(own, files)
    assert num_cores() == cores
    assert machine_bytes() == gib * GIB


def test_cores_that_a_process_may_not_use_do_not_count(container, monkeypatch):
    container("0::/", {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert num_cores() == 2
    monkeypatch.setenv(machine.ALL_CORES, "1")
    assert num_cores() == 64


def test_workers_share_the_cores_of_the_container(container):
    container("0::/", {"cpu.max": "400000 100000"})
    assert cpus_per_worker(ResourceConfig()) == 4
    assert cpus_per_worker(ResourceConfig(num_workers=2)) == 2
    assert cpus_per_worker(ResourceConfig(num_workers=9)) == 1
    assert cpus_per_worker(ResourceConfig(cpus_per_worker=7)) == 7


def test_each_gpu_of_a_node_can_be_used():
    node, two = Node(64, 8), ResourceConfig(use_gpu=True, num_workers=2)
    assert cpus_per_worker(two, node) == 8
    assert cpus_per_worker(ResourceConfig(use_gpu=True), Node(64, 1)) == 64
    assert cpus_per_worker(ResourceConfig(use_gpu=True), Node(4, 8)) == 1


def test_memory_is_shared_by_the_workers_that_run_at_once(container):
    container("0::/", {"cpu.max": "800000 100000", "memory.max": f"{8 * GIB}"})
    assert [processes_here(1, count) for count in (1, 2, 8, None)] == [1, 2, 8, 8]
    assert processes_here(4, None) == 2 and processes_here(16, None) == 1
    cpu = torch.device("cpu")
    alone = usable_bytes(cpu, processes_here(1, 1), 0.0)
    assert alone == devices.USABLE_SHARE * 8 * GIB
    assert usable_bytes(cpu, processes_here(1, 4), 0.0) == alone / 4
