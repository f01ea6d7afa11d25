"""Memory of training that differs by objective, by what trains, and by offloading.

`memory.py` counts the plain case: all parameters and next-token loss.
`experiments/benches/measure_recovery.py` measures the peaks of all cases.
"""

from __future__ import annotations

from orchestrator.estimate.devices import WIDTHS
from orchestrator.estimate.model_cost import ModelCost

VECTORS = 8
"""Vectors of hidden size in a block, about: biases and norms."""


def training_parts(
    cost: ModelCost,
    plain: dict[str, float],
    num_workers: int,
    tokens: int,
    kept: tuple[float, float],
) -> dict[str, float]:
    """Return the peak bytes of a worker by part, the same parts as of plain training.

    Args:
        cost: the model, objective and choice of what trains.
        plain: the parts of plain training.
        num_workers: ranks that the model is sharded over.
        tokens: of a forward pass.
        kept: bytes that a token keeps from the forward to the backward pass: in one block, and
            after the last block.
    """
    config, facts, parts = cost.finetune, cost.facts, dict(plain)
    blocks, hidden, compute = facts.num_blocks, facts.hidden_size, cost.inputs.training_dtype
    block = cost.block_parameters / blocks
    # The teacher of distillation has bf16 weights where the student computes in bf16.
    narrow = config.distill and compute == "bfloat16"
    width = WIDTHS["bfloat16" if narrow else cost.inputs.dtype]
    teacher = width * facts.num_parameters / num_workers
    if config.objective == "reconstruct":
        # One block at a time is whole, the dense one beside it, and half of it trains; no logits.
        # Hidden states are ours, those of the dense model, and the latter between the halves.
        hidden_states = 3 * 4.0 * cost.inputs.finetune_tokens / num_workers * hidden
        parts |= {
            "weights": 4.0 * facts.num_parameters / num_workers + teacher + 2 * 4 * block,
            "gradients": 4 * block * 2 / 3,
            "adam": 8 * block * 2 / 3,
            "gathered": 4 * (facts.num_parameters - cost.block_parameters) * (num_workers > 1),
            "activations": 2 * tokens * kept[0] + hidden_states,
        }
        blocks = 1
    elif cost.recompute:
        # Blocks keep their inputs, and the one that runs again all the rest.
        parts["activations"] -= tokens * (blocks - 1) * kept[0]
        parts["activations"] += tokens * (blocks - 1) * hidden * WIDTHS[compute]
    if config.trainable != "all":
        trained = VECTORS * hidden * blocks / num_workers
        if config.trainable == "masklora":
            # Whole on every worker, weights included.
            factors = sum(one.rows + one.cols for one in facts.linears if one.block < blocks)
            trained += 4 / 3 * config.rank * factors
        parts |= {"gradients": 4 * trained, "adam": 8 * trained}
        parts["masks"] -= cost.block_parameters / num_workers
    if config.distill:
        parts["weights"] += teacher
        if num_workers > 1:
            outside = facts.num_parameters - cost.block_parameters
            parts["gathered"] += width * (2 * block + outside)
        # The dense model's logits beside ours.
        parts["activations"] += width * tokens * facts.vocab_size
    return parts


def offloaded_parts(cost: ModelCost, parts: dict[str, float], width: int) -> dict[str, float]:
    """Return the bytes on the device where shards stay in host memory (`--cpu-offload`).

    On the device are two blocks, one of them ahead of its turn, and what lies outside of blocks;
    gradients of one block before they leave. Never measured on a GPU.

    Args:
        cost: the model, objective and choice of what trains.
        parts: bytes of a worker by part without offloading, of one phase.
        width: bytes of a weight.
    """
    block = cost.block_parameters / cost.facts.num_blocks
    outside = cost.facts.num_parameters - cost.block_parameters
    # Joint training, the one with copies, never adapts.
    learns = cost.finetune.distill or (cost.finetune.adapts and "copies" not in parts)
    models = 2 if learns and "adam" in parts else 1
    most = {
        # Shards on the way; the part `gathered` has what they become.
        "weights": models * width * (block + outside),
        "gradients": 4 * (block + outside),
        "adam": 0.0,
        "masks": 0.0,
    }
    return {part: min(size, most.get(part, size)) for part, size in parts.items()}
