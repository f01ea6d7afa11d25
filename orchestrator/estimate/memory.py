"""Memory of one worker: its peak in each phase, part by part.

`training.py` has the parts of training that differ by objective and by what trains.
"""

from __future__ import annotations

from dataclasses import replace

from core.measures.row_pieces import piece_bytes
from core.models.families import family_of
from core.split.costs import EXPERT_BYTES, STACK_BYTES, STACKED_COPIES, WIDTH
from core.training.adaptive import either
from core.training_config import Training
from orchestrator.estimate.devices import BASE_BYTES, WIDTHS
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.estimate.training import offloaded_parts, training_parts
from orchestrator.plan.inputs import ADAPTIVE_STEPS, JOINT_STEPS

SPLIT_WIDTH = 24
"""Bytes of a weight in the matrix that is projected: its goal, scores, keys and marks."""

Parts = dict[str, float]
"""Bytes by part: base, weights, activations, ..."""


def phases(
    cost: ModelCost, trains: bool, num_workers: int, micro_batch_tokens: int
) -> dict[str, Parts]:
    """Return the peak bytes of a worker, part by part, in each phase.

    Args:
        cost: counts of the model.
        trains: True if any stage trains; weights are float32 from then on.
        num_workers: ranks that the model is sharded over.
        micro_batch_tokens: tokens a forward pass, rounded to whole windows.
    """
    sizes = Sizes(cost, trains, num_workers, micro_batch_tokens)
    found = {"evaluate": sizes.evaluating(), "prune": sizes.pruning()}
    if trains:
        found["finetune"] = sizes.training()
        if cost.joins:
            found["joint"] = sizes.joining()
    if cost.cpu_offload:
        return {phase: offloaded_parts(cost, found[phase], sizes.width) for phase in found}
    return found


class Sizes:
    """Sizes that several phases share."""

    def __init__(self, cost: ModelCost, trains: bool, num_workers: int, tokens: int) -> None:
        facts, self.groups = cost.facts, cost.groups
        self.cost, self.num_workers, self.tokens = cost, num_workers, tokens
        self.width = 4 if trains else WIDTHS[cost.inputs.dtype]
        self.block = sum(one.rows * one.cols for group in self.groups for one in group)
        self.outside = facts.num_parameters - cost.block_parameters
        self.weights = self.width * facts.num_parameters / num_workers
        # Masks are bits in host memory; training keeps this rank's booleans on the device.
        self.masks = cost.block_parameters / 8 if cost.device == "cpu" else 0.0
        # An expert reads and makes values of few tokens.
        self.reads = sum(group[0].cols * group[0].share for group in self.groups)
        self.makes = sum(one.rows * one.share for group in self.groups for one in group)
        self.logits = tokens * facts.vocab_size
        self.base = float(BASE_BYTES[cost.device])

    def gathered(self, width: int) -> float:
        """Return the bytes of weights that FSDP2 makes whole; 0 where it does not run.

        These are two blocks, one of them ahead of its turn, and all that lies outside of blocks.
        """
        shards = self.num_workers > 1 or self.cost.cpu_offload or width < self.width
        return float(width * (2 * self.block + self.outside)) if shards else 0.0

    def evaluating(self) -> Parts:
        """Return the parts of an evaluation."""
        activations = self.tokens * (self.reads + self.makes) * self.width
        activations += self.logits * self.width * 2
        return self.resting() | {"activations": activations}

    def resting(self) -> Parts:
        """Return the parts that evaluating and pruning share."""
        gathered = self.gathered(self.width)
        return {"base": self.base, "weights": self.weights, "gathered": gathered}

    def pruning(self) -> Parts:
        """Return the parts of pruning."""
        found = self.resting() | {"masks": self.masks}
        calibration = self.cost.inputs.calibration
        if calibration is None:
            return found
        widest = max(self.groups, key=lambda group: group[0].cols)
        cols, rows = widest[0].cols, sum(one.rows for one in widest)
        tokens = calibration.num_tokens / self.num_workers
        seen = self.tokens * (self.reads * self.width + 4 * cols)
        found["activations"] = tokens * self.cost.facts.hidden_size * self.width + seen
        solve = 4 * 3 * cols**2 + 16 * cols * rows
        found["hessians"] = self.hessians() + max(solve, self.stack())
        return found

    def hessians(self) -> float:
        """Return the bytes of the Hessians of a block; those of experts are made part by part."""
        sums = [0.0, 0.0]
        for group in self.groups:
            sums[group[0].share < 1] += 4.0 * group[0].cols ** 2
        return sums[0] + min(sums[1], EXPERT_BYTES)

    def stack(self) -> float:
        """Return the bytes of experts that are solved at once; on a CPU none are."""
        routed = [group for group in self.groups if group[0].share < 1]
        sizes = [g[0].cols * (g[0].cols + sum(one.rows for one in g)) for g in routed]
        stacked = WIDTH * STACKED_COPIES * sum(sizes)
        return 0.0 if self.cost.device == "cpu" else min(stacked, STACK_BYTES)

    def training(self) -> Parts:
        """Return the parts of a round of masked training; of one that adapts, the most it takes."""
        config, inputs = self.cost.finetune, self.cost.inputs
        if not config.adapts:
            return self.trained(config, inputs.batch_tokens)
        step = inputs.step_tokens(ADAPTIVE_STEPS, inputs.finetune_tokens)
        found = [self.trained(one, step) for one in either(config)]
        if inputs.dtype != inputs.training_dtype == "bfloat16":
            # The gap is measured to a dense model of its own dtype, which stays there.
            dense = WIDTHS[inputs.dtype] * self.cost.facts.num_parameters / self.num_workers
            found[-1]["weights"] += dense
        return max(found, key=lambda parts: sum(parts.values()))

    def trained(self, config: Training, step_tokens: int) -> Parts:
        """Return the parts of training with one objective and optimizer steps of so many tokens."""
        cost, facts, n = replace(self.cost, finetune=config), self.cost.facts, self.num_workers
        compute, tokens = WIDTHS[cost.inputs.training_dtype], self.tokens
        if text := cost.inputs.finetune:
            # A worker's part of a step can be smaller than a micro-batch.
            tokens = min(tokens, -(-(step_tokens // text.seq_len) // n) * text.seq_len)
        gathered = self.gathered(compute)
        if gathered:
            # Gradients of whole weights, and the float32 buffer in which ranks sum them.
            gathered += (compute + 4) * max(self.block, self.outside)
        block, outside = self.kept(compute)
        # Beside what waits for the backward pass: gradients in one block, and of the logits.
        working = compute * (self.reads + self.makes + facts.vocab_size)
        plain = {
            "base": self.base,
            "weights": self.weights,
            "gathered": gathered,
            "gradients": 4 * facts.num_parameters / n,
            "adam": 8 * facts.num_parameters / n,
            "masks": self.masks + cost.block_parameters / n,
            "activations": tokens * (facts.num_blocks * block + outside + working)
            + piece_bytes(cost.device),
        }
        return training_parts(cost, plain, n, tokens, self.kept(compute))

    def joining(self) -> Parts:
        """Return the parts of joint training: sparse copies and duals, and a matrix being split."""
        largest = max(one.rows * one.cols for group in self.groups for one in group)
        copies = 8 * self.cost.block_parameters + SPLIT_WIDTH * largest
        inputs, config = self.cost.inputs, self.cost.finetune
        # Joint training never adapts.
        config = replace(config, objective="next_token") if config.adapts else config
        step = inputs.step_tokens(JOINT_STEPS, inputs.finetune_tokens)
        return self.trained(config, step) | {"copies": copies / self.num_workers}

    def kept(self, compute: int) -> tuple[float, float]:
        """Return the bytes that a token keeps from the forward to the backward pass.

        Returns:
            The bytes in one block, and those after the last block, logits included.
        """
        facts, family = self.cost.facts, family_of(self.cost.facts.model_type)
        narrow, wide = (width * facts.hidden_size for width in family.kept_widths)
        outputs = self.makes
        if family.kept_outputs is not None:
            rows = {one.name.rsplit(".", 1)[-1]: one.rows for group in self.groups for one in group}
            outputs = float(sum(rows[name] for name in family.kept_outputs))
        block = compute * (self.reads + outputs + narrow) + 4 * wide
        # The final norm is half of a block's norms. Its output is the input of the head.
        outside = compute * (narrow / 2 + facts.hidden_size + facts.vocab_size) + 2 * wide
        return block, outside


def host_memory(cost: ModelCost, num_workers: int, micro_batch_tokens: int) -> float:
    """Return the bytes of host memory that a training worker's shards take with offloading."""
    plain = phases(replace(cost, cpu_offload=False), True, num_workers, micro_batch_tokens)
    parts = plain["joint" if cost.joins else "finetune"]
    return sum(parts.get(part, 0.0) for part in ("weights", "gradients", "adam", "copies"))


def memory(cost: ModelCost, trains: bool, num_workers: int, micro_batch_tokens: int) -> float:
    """Return the estimated peak bytes of a worker: the largest of all phases."""
    found = phases(cost, trains, num_workers, micro_batch_tokens)
    return max(sum(parts.values()) for parts in found.values())


def smallest_num_workers(
    cost: ModelCost, trains: bool, micro_batch_tokens: int, usable_bytes: float, most: int = 256
) -> int | None:
    """Return the least power of two of workers that each fit; None where up to `most` none do.

    Calibration windows and weights are split over workers, Hessians and logits are not.
    """
    count = 1
    while count <= most:
        if memory(cost, trains, count, micro_batch_tokens) <= usable_bytes:
            return count
        count *= 2
    return None
