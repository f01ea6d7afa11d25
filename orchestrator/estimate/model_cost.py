"""Estimates before anything runs: operations, seconds, memory, disk and price, from configs alone.

Operations are multiply-adds times two. Memory is the peak of one worker, phase by phase and part by
part. Nothing here loads weights or knows Ray; a dry run prints it, progress and packing use the
ratios between stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from core.config import FinetuneConfig
from core.models.facts import Linear, ModelFacts
from core.models.families import FAMILIES
from core.precision import DTYPES
from orchestrator.estimate.devices import BASE_BYTES, MEMORY_BYTES_A_SECOND, RATES, WIDTHS
from orchestrator.estimate.solving import pruner_of, solve_operations, solve_seconds
from orchestrator.estimate.training import offloaded_parts, training_operations, training_parts
from orchestrator.plan.inputs import ModelInputs
from orchestrator.plan.plan import Plan
from orchestrator.plan.stages import Stage

STAGE_SECONDS = 0.3
"""Around a stage of a small model, measured: hashing, manifest, row."""
DISK_BYTES_A_SECOND = 400e6
"""Weights written, hashed and read back."""
STEP_BYTES = 60
"""Moved for each parameter in a step of the optimizer: clipping, moments, weights, masks."""


@dataclass(frozen=True)
class ModelCost:
    """Counts of a model that estimates need."""

    facts: ModelFacts
    inputs: ModelInputs
    device: str
    rates: Mapping[str, float] | None = None
    """Operations a second by `WORK DTYPE` or dtype; those of `RATES` where None."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Objective and choice of what trains."""
    recompute: bool = False
    """Whether blocks run again in the backward pass."""
    cpu_offload: bool = False
    """Whether shards of weights, gradients and moments stay in host memory."""

    @property
    def block_parameters(self) -> int:
        """Weights of all prunable matrices."""
        return sum(linear.rows * linear.cols for linear in self.facts.linears)

    @property
    def head_parameters(self) -> int:
        """Weights of the output head, tied or not."""
        return self.facts.vocab_size * self.facts.hidden_size

    def groups(self) -> list[list[Linear]]:
        """Matrices of the first block by the input that they read."""
        shared = FAMILIES[self.facts.model_type].shared_inputs
        found: dict[str, list[Linear]] = {}
        for one in self.facts.linears:
            if one.block == 0:
                last = one.name.rsplit(".", 1)[-1]
                key = next((names[0] for names in shared if last in names), last)
                found.setdefault(key, []).append(one)
        return list(found.values())

    def rate(self, work: str, dtype: str) -> float:
        """Operations a second of one kind of work in a dtype."""
        rates = self.rates or {name: RATES[self.device, name] for name in DTYPES}
        return rates.get(f"{work} {dtype}") or rates.get(dtype) or rates["float32"]

    # Operations and seconds ---------------------------------------------------------------------

    def forward_operations(self, tokens: int, seq_len: int, head: bool = True) -> float:
        """Of a forward pass: products with weights, and causal attention within a window."""
        attention = self.facts.num_blocks * self.facts.hidden_size * seq_len
        weights = self.block_parameters + (self.head_parameters if head else 0)
        return 2.0 * tokens * (weights + attention)

    def operations(self, stage: Stage, eval_tokens: int) -> dict[tuple[str, str], float]:
        """Operations of a stage by kind of work (forward, training, solve) and dtype."""
        fields = stage.fields
        if stage.kind == "dense":
            return {}
        if stage.kind == "evaluate":
            text = fields["text"]
            seq_len = text.get("seq_len", 1)
            # Windows that overlap are run whole.
            tokens = int(eval_tokens * seq_len / (text.get("stride") or seq_len))
            if text.get("max_windows"):
                tokens = min(tokens, text["max_windows"] * seq_len)
            return {("forward", self.inputs.dtype): self.forward_operations(tokens, seq_len)}
        if stage.kind == "finetune":
            seq_len = fields.get("text", {}).get("seq_len", 1)
            passes = (self.forward_operations(fields["tokens"], seq_len, h) for h in (True, False))
            trained = training_operations(fields, *passes)
            return {("training", fields["dtype"]): trained}
        if "calibration" not in fields:
            return {}
        seq_len = fields["calibration"]["seq_len"]
        tokens = fields["calibration"]["num_samples"] * seq_len
        twice = 2 * self.forward_operations(tokens, seq_len, head=False)
        done = {("forward", self.inputs.dtype): twice}
        if solving := solve_operations(self, pruner_of(stage), tokens):
            done["solve", "float32"] = solving
        return done

    def compute_seconds(self, stage: Stage, eval_tokens: int) -> float:
        """Seconds of a stage's own work, without loading and storing."""
        operations = self.operations(stage, eval_tokens)
        seconds = sum(count / self.rate(*work) for work, count in operations.items())
        if stage.kind == "finetune":
            steps = stage.fields["tokens"] / stage.fields.get(
                "batch_tokens", self.inputs.batch_tokens
            )
            moved = STEP_BYTES * self.facts.num_parameters * steps
            seconds += moved / MEMORY_BYTES_A_SECOND[self.device]
        if stage.kind == "prune" and "calibration" in stage.fields:
            seconds += solve_seconds(self, pruner_of(stage))
        return seconds

    def seconds(self, stage: Stage, eval_tokens: int) -> float:
        """Estimated seconds of one stage on one worker."""
        if stage.kind == "dense":
            return 0.0
        stored = 0 if stage.kind == "evaluate" else self.stage_bytes(stage.kind == "finetune")
        around = STAGE_SECONDS + 2 * stored / DISK_BYTES_A_SECOND
        return around + self.compute_seconds(stage, eval_tokens)

    # Memory and disk ----------------------------------------------------------------------------

    def phases(
        self, trains: bool, num_workers: int, micro_batch_tokens: int
    ) -> dict[str, dict[str, float]]:
        """Peak bytes of a worker, part by part, in each phase.

        Args:
            trains: whether any stage trains; weights are float32 from then on.
            num_workers: ranks that the model is sharded over.
            micro_batch_tokens: tokens a forward pass, rounded to whole windows.
        """
        facts, n = self.facts, num_workers
        width = 4 if trains else WIDTHS[self.inputs.dtype]
        groups = self.groups()
        block = sum(one.rows * one.cols for group in groups for one in group)
        # FSDP2 shards weights, and makes one block whole at a time, the next one ahead of it.
        weights = width * (facts.num_parameters / n + (2 * block if n > 1 else 0))
        # Full masks stay on the CPU; training keeps its shard on the device.
        masks = 1.0 * self.block_parameters if self.device == "cpu" else 0.0
        reads = sum(group[0].cols for group in groups)
        makes = sum(one.rows for group in groups for one in group)
        logits = micro_batch_tokens * facts.vocab_size
        base = {"base": float(BASE_BYTES[self.device])}
        found = {
            "evaluate": {
                **base,
                "weights": weights,
                "activations": micro_batch_tokens * (reads + makes) * width + logits * width * 2,
            }
        }
        largest = max(groups, key=lambda group: group[0].cols)
        solve = 4 * 3 * largest[0].cols ** 2 + 16 * largest[0].cols * sum(o.rows for o in largest)
        prune = {**base, "weights": weights, "masks": masks}
        if self.inputs.calibration is not None:
            fields: dict[str, Any] = self.inputs.calibration.fields
            tokens = fields["num_samples"] * fields["seq_len"] / n
            seen = micro_batch_tokens * (reads * width + 4 * largest[0].cols)
            prune["activations"] = tokens * facts.hidden_size * width + seen
            prune["hessians"] = 4.0 * sum(group[0].cols ** 2 for group in groups) + solve
        found["prune"] = prune
        if trains:
            compute = WIDTHS[self.inputs.training_dtype]
            # Autocast keeps a copy of the weights in its dtype through a forward and backward.
            copies = compute * (facts.num_parameters if n == 1 else 2 * block) if compute < 4 else 0
            # Norms and rotary embeddings keep float32, however narrow products are.
            apart = FAMILIES[facts.model_type].kept_widths * 4 * facts.hidden_size
            per_token = facts.num_blocks * ((reads + makes) * compute + apart)
            found["finetune"] = {
                **base,
                "weights": weights + copies,
                "gradients": 4 * facts.num_parameters / n,
                "adam": 8 * facts.num_parameters / n,
                "masks": masks + self.block_parameters / n,
                "activations": micro_batch_tokens * per_token + logits * (compute + 12),
            }
            found["finetune"] = training_parts(
                self, found["finetune"], n, micro_batch_tokens, per_token
            )
        if self.cpu_offload:
            return {phase: offloaded_parts(self, found[phase], width) for phase in found}
        return found

    def host_memory(self, num_workers: int, micro_batch_tokens: int) -> float:
        """Bytes of host memory that a training worker's shards take with offloading."""
        plain = replace(self, cpu_offload=False).phases(True, num_workers, micro_batch_tokens)
        return sum(plain["finetune"][part] for part in ("weights", "gradients", "adam"))

    def memory(self, trains: bool, num_workers: int, micro_batch_tokens: int) -> float:
        """Estimated peak bytes of a worker: the largest of all phases."""
        phases = self.phases(trains, num_workers, micro_batch_tokens)
        return max(sum(parts.values()) for parts in phases.values())

    def smallest_num_workers(
        self, trains: bool, micro_batch_tokens: int, usable_bytes: float, most: int = 256
    ) -> int | None:
        """The least power of two of workers that each fit; None where no number up to `most` does.

        Calibration windows and weights are split over workers, Hessians and logits are not.
        """
        count = 1
        while count <= most:
            if self.memory(trains, count, micro_batch_tokens) <= usable_bytes:
                return count
            count *= 2
        return None

    def stage_bytes(self, trained: bool) -> float:
        """Disk of one stage's weights and bit-packed masks."""
        width = 4 if trained else WIDTHS[self.inputs.dtype]
        return width * self.facts.num_parameters + self.block_parameters / 8


def stage_seconds(plan: Plan, costs: dict[str, ModelCost], eval_tokens: dict[str, int]) -> dict:
    """Estimated seconds of every stage by id; `eval_tokens` by evaluate stage id."""
    return {
        stage.id: costs[stage.model].seconds(stage, eval_tokens.get(stage.id, 50_000))
        for stage in plan.stages.values()
    }
