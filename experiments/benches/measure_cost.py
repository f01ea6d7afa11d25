"""Are the estimates of a dry run right? Seconds and peak memory of each phase, and the estimates.

    python experiments/benches/measure_cost.py DIRECTORY_OF_A_MODEL [--samples 16] ...

Each phase runs on random tokens in a process of its own, so that its peak is its own. An OPT-125M
takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from core.activations import Calibration
from core.config import FinetuneConfig, PruneConfig
from core.measures.perplexity import evaluate
from core.models.description import describe_model
from core.models.facts import ModelFacts
from core.models.loading import load_model
from core.models.sharding import shard_
from core.models.sources import local_source
from core.precision import DTYPES, inference_dtype, training_dtype
from core.pruners import PRUNERS, make_pruner
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.texts.windows import evaluation_windows
from core.training.finetune import finetune_
from core.training.loop import Loop
from core.training_config import Training
from orchestrator.estimate.memory import phases
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.estimate.rates import measured_rates
from orchestrator.estimate.seconds import compute_seconds
from orchestrator.plan.inputs import (
    CalibrationText,
    Draw,
    EvaluationText,
    ModelInputs,
    TrainingText,
)
from orchestrator.plan.kinds import Evaluate, Finetune, Prune
from orchestrator.plan.stages import Stage
from orchestrator.trial.clock import peak_memory

PHASES = ("evaluate", "prune", "finetune")


def main() -> None:
    """Run all phases and print a line for each; with `--phase` run that one alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser, tokens=8192)
    parser.add_argument("--phase", choices=PHASES)
    parser.add_argument("--method", default="sparsegpt", choices=list(PRUNERS))
    parser.add_argument("--refine", choices=["swaps"])
    parser.add_argument("--threads", type=int, help="of torch; 1 if other work runs beside it")
    flags = parser.parse_args()
    if flags.threads is not None:
        torch.set_num_threads(flags.threads)
    if flags.phase is not None:
        seconds, peak = run_phase(flags)
        print(f"{seconds:.3f} {peak:.0f}")
        return
    source = local_source(str(flags.model), flags.model)
    facts = describe_model(source)
    inputs = describe_inputs(flags, facts)

    def now() -> ModelCost:
        device, dtypes = torch.device(flags.device), (inputs.dtype, inputs.training_dtype)
        return ModelCost(
            facts, inputs, flags.device, measured_rates(source, facts, *dtypes, device)
        )

    print(
        f"{facts.num_parameters:,} parameters, {inputs.dtype}, trained in {inputs.training_dtype}"
    )
    print(f"{'phase':<9} {'seconds':>8} {'expected':>9} {'ratio':>6} {'GiB':>6} {'exp.':>6} ratio")
    cost = now()
    for phase in PHASES:
        before = cost
        seconds, peak = run_again("--phase", phase)[-2:]
        # Other work on the machine comes and goes: take the mean of the rates before and after.
        cost = now()
        stage = stage_of(phase, flags, inputs)
        wanted = sum(compute_seconds(c, stage, flags.tokens) for c in (before, cost)) / 2
        memory = phases(cost, phase == "finetune", 1, flags.micro_batch_tokens)
        most = sum(memory[phase].values())
        print(
            f"{phase:<9} {seconds:8.2f} {wanted:9.2f} {wanted / seconds:6.2f} "
            f"{peak / 2**30:6.2f} {most / 2**30:6.2f} {most / peak:5.2f}"
        )
    for name, rate in (cost.rates or {}).items():
        print(f"{name} {rate / 1e9:.0f} GFLOP/s")


def add_flags(parser: argparse.ArgumentParser, tokens: int) -> None:
    """Add the flags that describe a model and its inputs."""
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=tokens, help="to train and evaluate on")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")


def run_again(flag: str, value: str) -> list[float]:
    """Run this command in another process with one more flag; return the numbers it prints."""
    command = [sys.executable, *sys.argv, flag, value]
    return [float(word) for word in subprocess.check_output(command, text=True).split()]


def random_windows(flags: argparse.Namespace, facts: ModelFacts, count: int) -> Tensor:
    """Return windows of random tokens [count, seq_len]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(4, facts.vocab_size, (count, flags.seq_len), generator=generator)


def describe_inputs(flags: argparse.Namespace, facts: ModelFacts) -> ModelInputs:
    """Return what a plan would know."""
    device = torch.device(flags.device)
    seq_len = flags.seq_len
    return ModelInputs(
        name=facts.name,
        identity="",
        dtype=inference_dtype(flags.dtype, facts.dtype, device),
        training_dtype=training_dtype(flags.dtype, device),
        calibration=CalibrationText("random", "r", flags.samples, seq_len, "stream"),
        finetune=TrainingText("random", "r", seq_len),
        finetune_tokens=flags.tokens,
        batch_tokens=max(4096, flags.tokens),
        evaluations=(EvaluationText("random", "r", seq_len, seq_len),),
    )


def stage_of(phase: str, flags: argparse.Namespace, inputs: ModelInputs) -> Stage:
    """The stage that a phase is."""
    assert inputs.calibration is not None and inputs.finetune is not None
    prune, draw = PruneConfig(refine=flags.refine), Draw(inputs.calibration, 0)
    works = {
        "evaluate": Evaluate(inputs.evaluations[0], inputs.dtype),
        "prune": Prune(flags.method, prune, Target(0.5), draw, inputs.dtype),
        "finetune": Finetune(
            inputs.finetune, flags.tokens, 4096, Training(), inputs.training_dtype, seed=0, round=1
        ),
    }
    return Stage.of(works[phase], inputs.name, flags.method, None)


def run_phase(flags: argparse.Namespace) -> tuple[float, float]:
    """Run one phase; return its seconds without loading, and its peak in bytes."""
    facts = describe_model(local_source(str(flags.model), flags.model))
    inputs = describe_inputs(flags, facts)
    ranks = Ranks.current(torch.device(flags.device))
    compute = DTYPES[inputs.dtype]
    model = load_model(flags.model, torch.float32 if flags.phase == "finetune" else compute)
    shard_(model, ranks)
    text = random_windows(flags, facts, flags.tokens // flags.seq_len)
    micro = max(1, flags.micro_batch_tokens // flags.seq_len)
    start = time.monotonic()
    if flags.phase == "evaluate":
        parts = evaluation_windows(text.numel(), flags.seq_len, flags.seq_len, None)
        evaluate(model, text.view(-1), parts, ranks, micro_batch=micro, compute_dtype=compute)
    elif flags.phase == "prune":
        pruner = make_pruner(flags.method, PruneConfig(refine=flags.refine))
        windows = random_windows(flags, facts, flags.samples)
        prune_(model, pruner, Target(0.5), ranks, Calibration(windows, micro))
    else:
        masks = prune_(model, PRUNERS["magnitude"](PruneConfig()), Target(0.5), ranks).masks
        batches = text.split(max(1, 4096 // flags.seq_len))
        loop = Loop(ranks, micro, DTYPES[inputs.training_dtype])
        start = time.monotonic()
        finetune_(model, masks, batches, FinetuneConfig(), loop)
    if ranks.device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - start, peak_memory(ranks.device)


if __name__ == "__main__":
    main()
