"""Device, micro-batch and counts of the models of a sweep, for all blocks of its settings."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.config import SweepConfig
from orchestrator.estimate.memory import memory
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.inputs.models import ResolvedModel

MICRO_BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}


def device_of(config: SweepConfig) -> str:
    """Return the device that a sweep runs on."""
    return "cuda" if config.resources.use_gpu else "cpu"


def micro_batch_of(config: SweepConfig) -> int:
    """Return the tokens of a forward pass: as asked for, or the device's default."""
    return config.resources.micro_batch_tokens or MICRO_BATCH_TOKENS[device_of(config)]


def model_costs(
    blocks: Sequence[SweepConfig], resolved: Sequence[Sequence[ResolvedModel]]
) -> dict[str, ModelCost]:
    """Return the counts of each model, by name, with the settings that need most memory.

    Stages say themselves what they compute, so seconds do not depend on the block.
    """
    trains = any(block.grid.trains for block in blocks)
    workers, tokens = blocks[0].resources.num_workers, micro_batch_of(blocks[0])
    found: dict[str, list[ModelCost]] = {}
    for block, models in zip(blocks, resolved):
        for model in models:
            found.setdefault(model.inputs.name, []).append(model_cost(block, model))
    return {
        name: max(costs, key=lambda cost: memory(cost, trains, workers, tokens))
        for name, costs in found.items()
    }


def model_cost(config: SweepConfig, model: ResolvedModel) -> ModelCost:
    """Return the counts of a model on the sweep's device."""
    resources = config.resources
    return ModelCost(
        model.facts.pruned(config.prune.routers),
        model.inputs,
        device_of(config),
        finetune=config.finetune,
        joins=config.grid.joins,
        recompute=resources.activation_checkpointing,
        cpu_offload=resources.cpu_offload,
    )
