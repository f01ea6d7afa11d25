"""The reach of a cluster: nodes that are up, and nodes that an autoscaler may add.

Workers are counted node by node: cores that are free on two nodes hold no worker of both.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml

from orchestrator.estimate.machine import Node

UNITS = 10_000
"""Ray counts resources in parts of this size, so that sums of fractions are exact."""
HEAD = "node:__internal_head__"
"""Resource that Ray gives to the head alone."""
SCALING_FLAG = "--autoscaling-config="
KUBERAY = "RAY_USAGE_STATS_KUBERAY_IN_USE"
"""Variable of the pods of KubeRay, whose autoscaler runs in a container of its own."""


@dataclass(frozen=True)
class WorkerShape:
    """Resources of one worker."""

    cpus: int
    gpus: float = 0.0

    @classmethod
    def from_resources(cls, resources: Mapping[str, float]) -> WorkerShape:
        """Return the shape of a worker with resources as Ray names them."""
        return cls(int(resources["CPU"]), resources.get("GPU", 0.0))

    def __str__(self) -> str:
        """Return the resources in words."""
        cores = "1 CPU core" if self.cpus == 1 else f"{self.cpus} CPU cores"
        if not self.gpus:
            return cores
        return f"{cores} and {self.gpus:g} GPU{'s' * (self.gpus > 1)}"

    def count_on(self, node: Node) -> int:
        """Return how many workers fit on a node that runs nothing else."""
        count = int(node.cpus // self.cpus)
        if not self.gpus:
            return count
        if self.gpus >= 1:
            return min(count, int(node.gpus // self.gpus))
        # A worker lies on one card, so what is left over on two cards holds none.
        return min(count, int(node.gpus) * (UNITS // round(UNITS * self.gpus)))


@dataclass(frozen=True)
class NodeType:
    """A type of nodes of an autoscaler."""

    node: Node | None
    """Its resources; None if they are known only once a node is up."""
    least: int
    """Nodes that the autoscaler always keeps."""
    most: int


@dataclass(frozen=True)
class Reach:
    """The nodes that a cluster has, and those that it may grow to."""

    workers: tuple[Node, ...]
    """Nodes that are up, without the head."""
    head: Node = Node(0)
    types: tuple[NodeType, ...] = ()
    most: int = 0
    """Nodes of all types together, at most."""
    grows_unseen: bool = False
    """True if nodes may come of which nothing is known here."""

    def num_workers(self, shape: WorkerShape) -> int:
        """Return how many workers fit at a time once the cluster has grown."""
        on_head = shape.count_on(self.head)
        return on_head + max(sum(map(shape.count_on, self.workers)), self.num_added(shape))

    def num_added(self, shape: WorkerShape) -> int:
        """Return how many workers fit on the nodes of the autoscaler, at most."""
        known = [(shape.count_on(t.node), t) for t in self.types if t.node is not None]
        left = self.most - sum(t.least for t in self.types)
        count = sum(fits * t.least for fits, t in known)
        for fits, t in sorted(known, key=lambda pair: -pair[0]):
            added = max(0, min(left, t.most - t.least))
            count, left = count + fits * added, left - added
        return count

    def why_never(self, shape: WorkerShape, num_workers: int) -> str | None:
        """Return why the known nodes can never hold a worker group; None if they can."""
        fits = self.num_workers(shape)
        if fits >= num_workers:
            return None
        if fits:
            return f"only {fits} workers with {shape} each fit on the nodes"
        cores, cards = self.most_cores(), self.most_gpus()
        if cores < shape.cpus:
            return f"no node has {WorkerShape(shape.cpus)}; the most are {cores:g}"
        if cards < shape.gpus:
            wanted = "a GPU" if shape.gpus <= 1 else f"{shape.gpus:g} GPUs; the most are {cards:g}"
            return f"no node has {wanted}"
        return f"no node has {shape}"

    def may_hold_more(self) -> bool:
        """Return True if nodes of unknown resources may come."""
        return self.grows_unseen or any(t.node is None and t.most > 0 for t in self.types)

    def is_empty(self) -> bool:
        """Return True if nothing is known that could run a worker."""
        return not self.workers and not self.types and self.head.cpus < 1

    def has_cores(self) -> bool:
        """Return True if any node that is up or may come is known to have a core."""
        return self.most_cores() >= 1

    def most_cores(self) -> float:
        """Return the CPU cores of the largest node."""
        return max((node.cpus for node in self.nodes()), default=0)

    def most_gpus(self) -> float:
        """Return the GPUs of the node that has most of them."""
        return max((node.gpus for node in self.nodes()), default=0)

    def nodes(self) -> Counter[Node]:
        """Return all known nodes, and how many there may be of each kind; the head counts as 0."""
        counts = Counter(self.workers)
        for each in self.types:
            if each.node is not None and each.most > 0:
                counts[each.node] += each.most
        counts.setdefault(self.head, 0)
        return counts

    def usual_node(self, use_gpu: bool) -> Node | None:
        """Return the commonest node that workers can run on, of equals the one with fewer cores.

        The head counts only where there is no other; None if no node is known.
        """
        counts = self.nodes()
        fit = [node for node in counts if node.cpus >= 1 and (node.gpus > 0 or not use_gpu)]
        return min(fit, key=lambda node: (-counts[node], node.cpus), default=None)


def reach_of_cluster() -> Reach:
    """Return the reach of the cluster that this process has joined; it must run on the head."""
    scaling = autoscaling(ray.get_runtime_context().gcs_address)
    grows_unseen = not scaling and KUBERAY in os.environ
    return reach_from(ray.nodes(), scaling, grows_unseen)


def reach_from(
    nodes: Iterable[Mapping[str, Any]], scaling: Mapping[str, Any], grows_unseen: bool = False
) -> Reach:
    """Return a cluster's reach.

    Args:
        nodes: nodes as `ray.nodes()` tells them.
        scaling: the autoscaler's config, empty if there is no autoscaler.
        grows_unseen: nodes may come of which the config says nothing.
    """
    head, workers = Node(0), []
    for found in nodes:
        if found["Alive"]:
            if HEAD in found["Resources"]:
                head = node_of(found)
            else:
                workers.append(node_of(found))
    most, head_type = scaling.get("max_workers", 0), scaling.get("head_node_type")
    types = []
    for name, found in (scaling.get("available_node_types") or {}).items():
        resources = found.get("resources") or {}
        node = Node(resources["CPU"], resources.get("GPU", 0.0)) if "CPU" in resources else None
        own_most = found.get("max_workers", 0 if name == head_type else most)
        types.append(NodeType(node, found.get("min_workers", 0), min(own_most, most)))
    return Reach(tuple(workers), head, tuple(types), most, grows_unseen)


def own_node() -> Node:
    """Return the node of the cluster that this process runs on."""
    own = ray.get_runtime_context().get_node_id()
    return next(node_of(found) for found in ray.nodes() if found["NodeID"] == own)


def node_of(found: Mapping[str, Any]) -> Node:
    """Return a node as `ray.nodes()` tells it."""
    resources = found["Resources"]
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


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
