"""Seconds of stages, from the operations that each kind counts and the rates of a device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.estimate.model_cost import ModelCost
from orchestrator.plan.plan import Plan
from orchestrator.plan.stages import Stage
from orchestrator.plan.training_kinds import trained_rounds

STAGE_SECONDS = 0.3
"""Seconds around a stage of a small model, measured: hashing, manifest, row."""
DISK_BYTES_A_SECOND = 400e6
"""Rate of writing, hashing and reading weights."""
USUAL_TEXT_TOKENS = 50_000
"""Tokens of an evaluation text that nobody has counted."""


def stage_seconds(
    plan: Plan, costs: Mapping[str, ModelCost], text_tokens: Mapping[str, int]
) -> dict[str, float]:
    """Return the estimated seconds of every stage on one worker, by id.

    Args:
        plan: the whole plan.
        costs: counts of each model, by name.
        text_tokens: tokens of the text that an evaluation reads, by stage.
    """
    return {
        stage.id: seconds(costs[stage.model], stage, text_tokens.get(stage.id, USUAL_TEXT_TOKENS))
        for stage in plan.stages.values()
    }


def seconds(cost: ModelCost, stage: Stage, text_tokens: int) -> float:
    """Return the estimated seconds of one stage on the workers of `cost`."""
    work = stage.work
    if work.runs_in == "nowhere":
        return 0.0
    stored = cost.stage_bytes(work.trains) if work.stores_weights else 0.0
    around = STAGE_SECONDS + 2 * stored / DISK_BYTES_A_SECOND
    return around + compute_seconds(cost, stage, text_tokens)


def compute_seconds(cost: ModelCost, stage: Stage, text_tokens: int) -> float:
    """Return the seconds of a stage's own work, without loading and storing.

    Workers that have no window of an optimizer step wait for the others.
    """
    operations = stage.work.operations(cost, text_tokens)
    found = sum(count / cost.rate(*work) for work, count in operations.items())
    workers: float = cost.num_workers
    for each in trained_rounds(stage.work):
        workers = each.step_windows / -(-each.step_windows // cost.num_workers)
    return found / workers + stage.work.further_seconds(cost)


def block_seconds(cost: ModelCost, stages: Iterable[Stage]) -> float:
    """Return the seconds of the block that takes longest to prune, on one worker."""
    pruning = [stage for stage in stages if stage.work.changes_masks and not stage.work.trains]
    found = [compute_seconds(cost, stage, 0) / cost.facts.num_blocks for stage in pruning]
    return max(found, default=0.0)
