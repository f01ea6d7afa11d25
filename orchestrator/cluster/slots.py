"""Slots: the number of worker groups that fit into a cluster at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml

from core.checks import BadInputError, require
from orchestrator.config import ResourceConfig
from orchestrator.estimate.devices import cpus_per_worker, gpus_per_worker

SCALING_FLAG = "--autoscaling-config="
FIRST_WORKER_SECONDS = 900
"""Installing torch on a new machine takes minutes."""


def num_slots(config: ResourceConfig, available: Mapping[str, float]) -> int:
    """Return how many trials fit into the available resources at a time, at least 1.

    Raises:
        BadInputError: not even one fits; names the flag.
    """
    cpus = cpus_per_worker(config) * config.num_workers
    slots = int(available.get("CPU", 0) // cpus)
    has = f"{available.get('CPU', 0):g} CPU cores"
    require(
        slots > 0, "num-workers", config.num_workers, f"needs {cpus} CPU cores; there are {has}"
    )
    if config.use_gpu:
        gpus = gpus_per_worker(config) * config.num_workers
        fits = int(available.get("GPU", 0) // gpus + 1e-9)
        have = f"{available.get('GPU', 0):g}"
        require(fits > 0, "use-gpu", config.num_workers, f"needs {gpus:g} GPUs; there are {have}")
        slots = min(slots, fits)
    return min(slots, config.max_concurrent_trials or slots)


def slots_of_cluster(config: ResourceConfig) -> int:
    """Return how many trials fit at a time into the cluster that this process has joined.

    The size that the autoscaler may reach counts, not the machines that are up now. If no worker is
    up yet but the autoscaler always keeps some, wait for the first. If no worker is up and nothing
    says how far the cluster may grow, return `--max-concurrent-trials`, or 1 if it is not set.

    Raises:
        BadInputError: not even one trial fits; names the flag.
    """
    scaling = autoscaling(ray.get_runtime_context().gcs_address)
    reachable = reachable_resources(scaling, ray.cluster_resources())
    if not reachable.get("CPU") and any(t.get("min_workers") for t in node_types(scaling)):
        print("waiting for the cluster's first worker", flush=True)
        end = time.monotonic() + FIRST_WORKER_SECONDS
        while not reachable.get("CPU") and time.monotonic() < end:
            time.sleep(2)
            reachable = ray.cluster_resources()
    elif not reachable.get("CPU"):
        slots = config.max_concurrent_trials or 1
        asked = f"no workers yet; asking for {slots} trials at a time (--max-concurrent-trials)"
        print(asked, flush=True)
        return slots
    return num_slots(config, reachable)


def has_node_for(cpus: int, gpus: float) -> bool:
    """Return True if a node that is up has these resources, in use or not."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(n.get("CPU", 0) >= cpus and n.get("GPU", 0) >= gpus for n in alive)


def planned_slots(config: ResourceConfig) -> int:
    """Return the slots that a dry run plans for.

    They are those of this machine. If not even one trial fits here, they are
    `--max-concurrent-trials`, or 1 if it is not set.
    """
    try:
        return num_slots(config, local_resources())
    except BadInputError:
        return config.max_concurrent_trials or 1


def reachable_resources(scaling: Mapping[str, Any], up: Mapping[str, float]) -> dict[str, float]:
    """Return the resources that a cluster may grow to, at least those that are up.

    Args:
        scaling: the autoscaler's config, empty if there is no autoscaler.
        up: resources of the nodes that are up.
    """
    most: dict[str, float] = {}
    for node_type in node_types(scaling):
        count = min(node_type.get("max_workers", 0), scaling.get("max_workers", 0))
        for name, value in (node_type.get("resources") or {}).items():
            most[name] = most.get(name, 0.0) + count * value
    return {name: max(most.get(name, 0.0), up.get(name, 0.0)) for name in {*most, *up}}


def node_types(scaling: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the types of nodes in an autoscaler's config."""
    return list((scaling.get("available_node_types") or {}).values())


def autoscaling(gcs_address: str) -> dict[str, Any]:
    """Return the config of the autoscaler on this machine, the head; empty if there is none.

    Ray has no call that says how far a cluster may grow. The command line of the autoscaler's
    process names the file of its config.
    """
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if f"--gcs-address={gcs_address}" in words:
            for word in words:
                path = Path(word.removeprefix(SCALING_FLAG)).expanduser()
                if word.startswith(SCALING_FLAG) and path.is_file():
                    return yaml.safe_load(path.read_text(encoding="utf-8"))
    return {}


def local_resources() -> dict[str, float]:
    """Return the CPU cores and GPUs of this machine without asking Ray."""
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
