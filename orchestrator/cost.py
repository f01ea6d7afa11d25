"""Estimates before anything runs: operations and seconds of a stage, memory of a worker.

Counts are of multiply-adds times two. Rates are rough (a dry run says "about"); ratios between
stages are what progress and packing use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.models import ModelFacts
from core.pruners import PRUNERS
from core.pruners.hessian import Hessian
from orchestrator.plan import ModelInputs, Plan, Stage

# Operations a second: measured on 2 CPU cores at 2.4 M parameters (fp32, bf16), assumed on a GPU.
RATES = {
    ("cpu", "float32"): 70e9,
    ("cpu", "bfloat16"): 110e9,
    ("cuda", "float32"): 20e12,
    ("cuda", "bfloat16"): 100e12,
    ("cuda", "float16"): 100e12,
}
STAGE_SECONDS = 0.3
"""Reading, writing and hashing around a stage of a small model."""


@dataclass(frozen=True)
class ModelCost:
    """Counts of a model that estimates need."""

    facts: ModelFacts
    inputs: ModelInputs
    device: str

    @property
    def block_parameters(self) -> int:
        """Weights of all prunable matrices."""
        return sum(linear.rows * linear.cols for linear in self.facts.linears)

    def rate(self, dtype: str) -> float:
        """Operations a second in a dtype."""
        return RATES.get((self.device, dtype), RATES[self.device, "float32"])

    def seconds(self, stage: Stage, eval_tokens: int) -> float:
        """Estimated seconds of one stage."""
        fields = stage.fields
        if stage.kind == "dense":
            return 0.0
        if stage.kind == "evaluate":
            operations = 2 * self.facts.num_parameters * eval_tokens
            return STAGE_SECONDS + operations / self.rate(self.inputs.dtype)
        if stage.kind == "finetune":
            operations = 6 * self.facts.num_parameters * fields["tokens"]
            return STAGE_SECONDS + operations / self.rate(fields["dtype"])
        seconds = STAGE_SECONDS
        if "calibration" in fields:
            tokens = fields["calibration"]["num_samples"] * fields["calibration"]["seq_len"]
            seconds += 2 * 2 * self.block_parameters * tokens / self.rate(self.inputs.dtype)
            if PRUNERS[stage.method].statistic is Hessian:
                seconds += self.solve_operations(tokens) / self.rate("float32")
        return seconds

    def solve_operations(self, tokens: int) -> float:
        """Half of X XT for each input, one Cholesky, and a solve that costs rows n^2 twice over."""
        return sum(
            one.cols**2 * tokens + one.cols**3 / 3 + 4 * one.rows * one.cols**2
            for one in self.facts.linears
        )

    def memory(self, trains: bool, num_workers: int, micro_batch_tokens: int) -> float:
        """Estimated peak bytes of a worker: the larger of training and of pruning."""
        parameters = self.facts.num_parameters
        width = 2 if self.inputs.dtype in ("bfloat16", "float16") else 4
        logits = 3 * 4 * micro_batch_tokens * self.facts.vocab_size
        blocks = self.facts.num_blocks
        hidden = 34 * micro_batch_tokens * self.facts.hidden_size * blocks * 2
        training = 16 * parameters / num_workers + logits + hidden if trains else 0
        calibration = 0.0
        if self.inputs.calibration is not None:
            fields: dict[str, Any] = self.inputs.calibration.fields
            tokens = fields["num_samples"] * fields["seq_len"]
            hessians = sum(4 * 3 * one.cols**2 for one in self.facts.linears) / blocks
            calibration = tokens * self.facts.hidden_size * width / num_workers + hessians
        pruning = width * parameters * 2 + logits + calibration
        return BASE_BYTES + max(training, pruning)


BASE_BYTES = 0.6e9
"""Python, torch and transformers before any model is loaded, measured."""


def stage_seconds(plan: Plan, costs: dict[str, ModelCost], eval_tokens: dict[str, int]) -> dict:
    """Estimated seconds of every stage by id; `eval_tokens` by evaluate stage id."""
    return {
        stage.id: costs[stage.model].seconds(stage, eval_tokens.get(stage.id, 50_000))
        for stage in plan.stages.values()
    }
