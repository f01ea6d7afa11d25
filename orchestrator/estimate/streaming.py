"""Memory of a worker whose model is streamed: one block at a time, activations on the host."""

from __future__ import annotations

from orchestrator.estimate.devices import WIDTHS
from orchestrator.estimate.memory import Parts, Sizes, phases
from orchestrator.estimate.model_cost import ModelCost


def untrained_bytes(cost: ModelCost, num_workers: int, micro_batch_tokens: int) -> float:
    """Return the peak bytes of a worker that prunes and evaluates its share of a whole model."""
    found = phases(cost, False, num_workers, micro_batch_tokens)
    return max(sum(parts.values()) for parts in found.values())


def streamed_phases(cost: ModelCost, num_workers: int, micro_batch_tokens: int) -> dict[str, Parts]:
    """Return the peak bytes of a worker on its device, part by part, in each phase.

    Hidden states are not among them: they fill what is left of the host's memory, and then go to
    disk.

    Args:
        cost: counts of the model.
        num_workers: ranks; each opens the same blocks.
        micro_batch_tokens: tokens a forward pass.
    """
    sizes = Sizes(cost, False, num_workers, micro_batch_tokens)
    found = {"evaluate": sizes.evaluating(), "prune": sizes.pruning()}
    facts, width = cost.facts, sizes.width
    for parts in found.values():
        parts["gathered"] = 0.0  # Every rank reads whole blocks.
    outside = facts.num_parameters - cost.block_parameters
    for parts in found.values():
        parts["weights"] = float(width * max(sizes.block, outside))
    # The new weights of a block, beside the old ones and their masks.
    found["prune"]["weights"] += width * sizes.block
    found["prune"]["masks"] = 1.0 * sizes.block
    calibration = cost.inputs.calibration
    if calibration is not None:
        hidden = facts.hidden_size * width * calibration.num_tokens / num_workers
        found["prune"]["activations"] -= hidden
    return found


def streamed_bytes(cost: ModelCost, num_workers: int, micro_batch_tokens: int) -> float:
    """Return the peak of `streamed_phases`."""
    found = streamed_phases(cost, num_workers, micro_batch_tokens)
    return max(sum(parts.values()) for parts in found.values())


def hidden_bytes(cost: ModelCost, num_workers: int, eval_tokens: int) -> float:
    """Return the hidden states of the longer of calibration and evaluation, on each worker."""
    calibration = cost.inputs.calibration
    tokens = max(eval_tokens, 0 if calibration is None else calibration.num_tokens)
    return WIDTHS[cost.inputs.dtype] * cost.facts.hidden_size * tokens / num_workers
