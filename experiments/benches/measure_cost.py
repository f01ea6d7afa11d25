"""Measures peak memory and seconds of each phase on this machine, beside what `cost.py` expects.

    python experiments/benches/measure_cost.py DIRECTORY_OF_A_MODEL [--samples 16] ...

Each phase runs in a process of its own on random tokens, so that peaks are its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from core.activations import Calibration
from core.config import FinetuneConfig, PruneConfig
from core.measures.perplexity import evaluate, evaluation_windows
from core.models.facts import ModelFacts, describe_model
from core.models.loading import load_model
from core.models.sharding import shard_
from core.models.sources import local_source
from core.parallel import Ranks
from core.precision import DTYPES, inference_dtype, training_dtype
from core.pruners import PRUNERS, make_pruner
from core.sequential import prune_
from core.targets import Target
from core.training.finetune import finetune_
from core.training.loop import Loop
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.estimate.rates import measured_rates
from orchestrator.plan.inputs import ModelInputs, TextInput
from orchestrator.plan.stages import Stage
from orchestrator.trial.clock import peak_memory

PHASES = ("evaluate", "prune", "finetune")


def main() -> None:
    """Runs the phases, or one of them where it is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--phase", choices=PHASES)
    parser.add_argument("--method", default="sparsegpt", choices=list(PRUNERS))
    parser.add_argument("--refine", choices=["swaps"])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=8192, help="trained and evaluated on")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; 1 where other work runs beside it")
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
        out = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--phase", phase],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        seconds, peak = float(out[-2]), float(out[-1])
        # Other work on the machine comes and goes: the rates of before and after, halved.
        cost = now()
        stage = stage_of(phase, flags, inputs)
        wanted = sum(c.compute_seconds(stage, flags.tokens) for c in (before, cost)) / 2
        memory = cost.phases(phase == "finetune", 1, flags.micro_batch_tokens)
        most = sum(memory[phase].values())
        print(
            f"{phase:<9} {seconds:8.2f} {wanted:9.2f} {wanted / seconds:6.2f} "
            f"{peak / 2**30:6.2f} {most / 2**30:6.2f} {most / peak:5.2f}"
        )
    for name, rate in (cost.rates or {}).items():
        print(f"{name} {rate / 1e9:.0f} GFLOP/s")


def describe_inputs(flags: argparse.Namespace, facts: ModelFacts) -> ModelInputs:
    """What a plan would know."""
    device = torch.device(flags.device)
    windows = {"num_samples": flags.samples, "seq_len": flags.seq_len}
    return ModelInputs(
        name=facts.name,
        identity="",
        dtype=inference_dtype(flags.dtype, facts.dtype, device),
        training_dtype=training_dtype(flags.dtype, device),
        calibration=TextInput("random", windows),
        finetune=TextInput("random", {"seq_len": flags.seq_len}),
        finetune_tokens=flags.tokens,
        batch_tokens=4096,
        evaluations=(TextInput("random", {"seq_len": flags.seq_len}),),
    )


def stage_of(phase: str, flags: argparse.Namespace, inputs: ModelInputs) -> Stage:
    """The stage that a phase is."""
    assert inputs.calibration is not None
    fields = {
        "evaluate": {"text": {"seq_len": flags.seq_len}},
        "prune": {
            "calibration": inputs.calibration.fields,
            "settings": {"refine": flags.refine},
        },
        "finetune": {
            "tokens": flags.tokens,
            "dtype": inputs.training_dtype,
            "text": {"seq_len": flags.seq_len},
        },
    }[phase]
    return Stage(phase, phase, inputs.name, flags.method, None, fields)


def run_phase(flags: argparse.Namespace) -> tuple[float, float]:
    """Seconds without loading, and the peak in bytes, of one phase."""
    facts = describe_model(local_source(str(flags.model), flags.model))
    inputs = describe_inputs(flags, facts)
    ranks = Ranks.current(torch.device(flags.device))
    compute = DTYPES[inputs.dtype]
    model = load_model(flags.model, torch.float32 if flags.phase == "finetune" else compute)
    shard_(model, ranks)
    generator = torch.Generator().manual_seed(0)
    stream = torch.randint(4, facts.vocab_size, (flags.tokens,), generator=generator)
    size = (flags.samples, flags.seq_len)
    windows = torch.randint(4, facts.vocab_size, size, generator=generator)
    micro = max(1, flags.micro_batch_tokens // flags.seq_len)
    start = time.monotonic()
    if flags.phase == "evaluate":
        parts = evaluation_windows(len(stream), flags.seq_len, flags.seq_len, None)
        evaluate(model, stream, parts, ranks, micro_batch=micro, compute_dtype=compute)
    elif flags.phase == "prune":
        pruner = make_pruner(flags.method, PruneConfig(refine=flags.refine))
        prune_(model, pruner, Target(0.5), ranks, Calibration(windows, micro))
    else:
        masks = prune_(model, PRUNERS["magnitude"](PruneConfig()), Target(0.5), ranks).masks
        batches = stream.view(-1, flags.seq_len).split(max(1, 4096 // flags.seq_len))
        loop = Loop(ranks, micro, DTYPES[inputs.training_dtype])
        start = time.monotonic()
        finetune_(model, masks, batches, FinetuneConfig(), loop)
    if ranks.device.type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - start, peak_memory(ranks.device)


if __name__ == "__main__":
    main()
