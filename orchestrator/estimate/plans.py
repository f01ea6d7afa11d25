"""Plans of one-shot cells: machines, whether the model is whole or streamed there, memory, hours.

A model that does not fit a worker whole, or as its shard, is streamed (`streaming.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from core.checks import require
from orchestrator.estimate.devices import GIB
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.estimate.seconds import DISK_BYTES_A_SECOND, seconds
from orchestrator.estimate.streaming import (
    hidden_bytes,
    streamed_bytes,
    streamed_phases,
    untrained_bytes,
)
from orchestrator.plan.stages import Stage

WITHOUT_HESSIAN = ("magnitude", "wanda")
"""Methods that need no Hessian."""


@dataclass(frozen=True)
class Machine:
    """Workers that a plan is made for."""

    name: str
    cost: ModelCost
    """Counts of the model with the rates of a worker."""
    num_workers: int
    usable_bytes: float
    """Memory of a worker."""
    micro_batch_tokens: int


def plan_lines(
    machines: Iterable[Machine], stages: Iterable[Stage], eval_tokens: Mapping[str, int]
) -> list[str]:
    """Return a line for each machine: how the model lies there, memory of a worker, hours.

    Args:
        machines: the machines to plan for.
        stages: stages of one model, to run; those of training are left out.
        eval_tokens: tokens of evaluated texts by stage.
    """
    untrained = [stage for stage in stages if not stage.work.trains]
    longest = max((eval_tokens.get(stage.id, 0) for stage in untrained), default=0)
    ways = [(machine, *way_to_run(machine)) for machine in machines]
    labels = [f"{machine.name}: {way}" for machine, way, _ in ways]
    width = max(44, *map(len, labels))
    head = f"{'GiB a worker':>14}{'GiB host or disk':>18}{'hours':>11}"
    lines = [f"  {'plans without training':<{width}}{head}"]
    for label, (machine, way, size) in zip(labels, ways, strict=True):
        streamed = way.startswith("streamed")
        hidden = hidden_bytes(machine.cost, machine.num_workers, longest) / GIB
        aside = f"{hidden:.2f}" if streamed else ""
        taken = sum(
            shared_seconds(machine, stage, eval_tokens.get(stage.id, 0), streamed)
            for stage in untrained
        )
        row = f"{size / GIB:>14.2f}{aside:>18}{taken / 3600:>9,.2f} h"
        lines.append(f"  {label:<{width}}{row}")
    return lines


def way_to_run(machine: Machine) -> tuple[str, float]:
    """Return how a model lies on the workers of a machine, and the bytes of one of them.

    Where not even one block with its Hessians fits, methods without one may.
    """
    cost, count, tokens = machine.cost, machine.num_workers, machine.micro_batch_tokens
    size, usable = untrained_bytes(cost, count, tokens), machine.usable_bytes
    if size <= usable:
        return "whole" if count == 1 else "in shards", size
    size = streamed_bytes(cost, count, tokens)
    if size <= usable:
        return "streamed", size
    found = streamed_phases(cost, count, tokens)
    found["prune"].pop("hessians", None)
    without = max(sum(parts.values()) for parts in found.values())
    if without <= usable:
        return f"streamed, only {' or '.join(WITHOUT_HESSIAN)}", without
    return "does not fit", size


def shared_seconds(machine: Machine, stage: Stage, text_tokens: int, streamed: bool) -> float:
    """Return the seconds of a stage on several workers, which share windows and solves."""
    cost = replace(machine.cost, num_workers=machine.num_workers)
    found = seconds(cost, stage, text_tokens)
    if not streamed:
        return found
    # Each worker reads every block from the disk, and a new block goes to two places.
    moves = 3 if stage.work.stores_weights else 1
    return found + moves * cost.stage_bytes(trained=False) / DISK_BYTES_A_SECOND


def require_training_fits(cost: ModelCost, needed_bytes: float, usable_bytes: float) -> None:
    """Refuse to train a model that does not fit the workers of this machine."""
    sizes = f"{needed_bytes / GIB:.1f} GiB a worker, and {usable_bytes / GIB:.1f} are here"
    ways = ["a smaller --micro-batch-tokens"]
    # Reconstruction holds one block at a time, so it refuses the flag.
    if not cost.recompute and cost.finetune.objective == "next_token":
        ways.append("--activation-checkpointing")
    if cost.device == "cuda" and not cost.cpu_offload:
        ways.append("--cpu-offload")
    remedy = (
        f"training takes about {sizes}; use {', '.join(ways)}, more --num-workers on a cluster, "
        "or --regimes oneshot, which needs memory for one block"
    )
    require(needed_bytes <= usable_bytes, "models", cost.inputs.name, remedy)


def require_tasks_fit(name: str, needed_bytes: float, usable_bytes: float) -> None:
    """Refuse zero-shot tasks of a model that does not fit whole."""
    sizes = f"{needed_bytes / GIB:.1f} GiB, and {usable_bytes / GIB:.1f} are here"
    remedy = f"tasks need the whole model, about {sizes}; use a larger machine, or no --eval.tasks"
    require(needed_bytes <= usable_bytes, "models", name, remedy)
