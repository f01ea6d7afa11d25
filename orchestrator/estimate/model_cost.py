"""Counts of a model that all estimates follow from: parameters, operations, rates.

Operations are multiply-adds times two. Nothing here loads weights. `seconds.py` and `memory.py`
turn counts into time and bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from core.config import PruneConfig
from core.models.facts import Linear, ModelFacts
from core.precision import DTYPES
from core.pruners import make_pruner
from core.training_config import Training
from orchestrator.estimate import experts
from orchestrator.estimate.devices import MEMORY_BYTES_A_SECOND, RATES, WIDTHS
from orchestrator.estimate.solving import solve_operations, solve_seconds
from orchestrator.plan.inputs import CalibrationText, ModelInputs

DECODED_BLOCK_SECONDS = 0.4e-3
"""Seconds that a block of any size takes for one token, measured on a CPU: calls of operations."""
STEP_BYTES = 60
"""Bytes moved for each parameter in a step of the optimizer: clipping, moments, weights, masks."""


@dataclass(frozen=True)
class ModelCost:
    """Counts of one model on one kind of device."""

    facts: ModelFacts
    inputs: ModelInputs
    device: str
    rates: Mapping[str, float] | None = None
    """Operations a second by `WORK DTYPE` or dtype; those of `RATES` where None."""
    finetune: Training = Training()
    """Objective and choice of what trains."""
    recompute: bool = False
    """True if blocks run again in the backward pass."""
    num_workers: int = 1
    """Workers whose seconds together are estimated, each as fast as `rates` says."""
    joins: bool = False
    """True if masks are found by training, with a sparse copy and a dual of each matrix."""
    cpu_offload: bool = False
    """True if shards of weights, gradients and moments stay in host memory."""

    @cached_property
    def block_parameters(self) -> int:
        """Weights of all prunable matrices."""
        return sum(linear.rows * linear.cols for linear in self.facts.linears)

    @cached_property
    def active_parameters(self) -> float:
        """Weights of prunable matrices that multiply a token, on average: few are of experts."""
        return sum(linear.rows * linear.cols * linear.share for linear in self.facts.linears)

    @property
    def head_parameters(self) -> int:
        """Weights of the output head, tied or not."""
        return self.facts.vocab_size * self.facts.hidden_size

    @cached_property
    def blocks(self) -> list[tuple[int, list[list[Linear]]]]:
        """Matrices of a block by the input that they read, and how many blocks are like it."""
        by_block: dict[int, dict[str, list[Linear]]] = {}
        for one in self.facts.linears:
            by_block.setdefault(one.block, {}).setdefault(one.reads, []).append(one)
        found: dict[tuple[object, ...], tuple[int, list[list[Linear]]]] = {}
        for groups in (list(groups.values()) for groups in by_block.values()):
            shapes = tuple(tuple((o.rows, o.cols, o.share) for o in group) for group in groups)
            count, first = found.get(shapes, (0, groups))
            found[shapes] = count + 1, first
        return list(found.values())

    @cached_property
    def groups(self) -> list[list[Linear]]:
        """Matrices of the largest block by the input that they read."""
        groups = (groups for _, groups in self.blocks)
        return max(groups, key=lambda found: sum(one.rows * one.cols for g in found for one in g))

    def rate(self, work: str, dtype: str) -> float:
        """Return the operations a second of one kind of work in a dtype."""
        rates = self.rates or {name: RATES[self.device, name] for name in DTYPES}
        return rates.get(f"{work} {dtype}") or rates.get(dtype) or rates["float32"]

    def forward_operations(self, tokens: int, seq_len: int, head: bool = True) -> float:
        """Return products with weights, and causal attention within a window."""
        attention = self.facts.num_blocks * self.facts.hidden_size * seq_len
        weights = self.active_parameters + (self.head_parameters if head else 0)
        return 2.0 * tokens * (weights + attention)

    def prune_operations(self, method: str, settings: PruneConfig, text: CalibrationText) -> float:
        """Return the forward passes of a prune stage: those that observe, and one that goes on."""
        pruner = make_pruner(method, settings)
        parts = max(experts.num_parts(groups, pruner) for _, groups in self.blocks)
        once = self.forward_operations(text.num_tokens, text.seq_len, head=False)
        shown = sum(n * experts.shown_products(groups, text) for n, groups in self.blocks)
        return (1 + parts) * once + shown

    def solve_operations(self, method: str, settings: PruneConfig, text: CalibrationText) -> float:
        """Return the products of all statistics and solves."""
        pruner = make_pruner(method, settings)
        return sum(n * solve_operations(groups, pruner, text) for n, groups in self.blocks)

    def solve_seconds(self, method: str, settings: PruneConfig, text: CalibrationText) -> float:
        """Return the seconds of all solves beside products that workers share evenly."""
        pruner = make_pruner(method, settings)
        rate, width = self.rate("solve", "float32"), WIDTHS[self.inputs.dtype]
        solved = [(n, experts.solved_groups(groups, text.experts)) for n, groups in self.blocks]
        return sum(
            count * solve_seconds(groups, pruner, self.device, rate, self.num_workers, width)
            for count, groups in solved
        )

    def optimizer_seconds(self, steps: float) -> float:
        """Return the seconds that optimizer steps take to move memory."""
        moved = STEP_BYTES * self.facts.num_parameters * steps
        return moved / MEMORY_BYTES_A_SECOND[self.device] / self.num_workers

    def decode_seconds(self, tokens: int) -> float:
        """Return the seconds of decoding tokens one after another: each reads all weights."""
        stored = WIDTHS[self.inputs.dtype] * self.facts.num_parameters
        read = stored / MEMORY_BYTES_A_SECOND[self.device]
        return tokens * (read + self.facts.num_blocks * DECODED_BLOCK_SECONDS)

    @property
    def max_seq_len(self) -> int:
        """The most tokens of a window."""
        return self.facts.max_seq_len

    def stage_bytes(self, trained: bool) -> float:
        """Return the disk of one stage's weights and bit-packed masks."""
        width = 4 if trained else WIDTHS[self.inputs.dtype]
        return width * self.facts.num_parameters + self.block_parameters / 8
