"""Memory of training: the peak of each kind, beside the peak that a dry run expects.

    python experiments/benches/measure_recovery.py DIRECTORY_OF_A_MODEL [--seq-len 512] ...

Each kind trains two steps on random tokens with one worker, in a process of its own. An OPT-125M
takes some minutes on two cores.
"""

from __future__ import annotations

import argparse

import torch
from measure_cost import add_flags, describe_inputs, random_windows, run_again

from core.config import FinetuneConfig, PruneConfig
from core.models.description import describe_model
from core.models.loading import load_model
from core.models.sources import local_source
from core.precision import DTYPES, inference_dtype, training_dtype
from core.pruners import PRUNERS
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from core.training.finetune import finetune_
from core.training.loop import Loop
from orchestrator.estimate.memory import phases
from orchestrator.estimate.model_cost import ModelCost
from orchestrator.trial.clock import peak_memory

KINDS = {
    "plain": {},
    "plain, recomputed": {},
    "bias_norm": {"trainable": "bias_norm"},
    "masklora": {"trainable": "masklora"},
    "distill": {"distill": True},
    "distill bias_norm": {"distill": True, "trainable": "bias_norm"},
    "reconstruct": {"objective": "reconstruct"},
    "reconstruct masklora": {"objective": "reconstruct", "trainable": "masklora"},
}


def main() -> None:
    """Run every kind and print a line for each; with `--kind` run that one alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser, tokens=4096)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    flags = parser.parse_args()
    if flags.kind is not None:
        print(peak_of(flags))
        return
    facts = describe_model(local_source(str(flags.model), flags.model))
    inputs = describe_inputs(flags, facts)
    print(f"{facts.num_parameters:,} parameters, trained in {inputs.training_dtype}")
    print(f"{'kind':<22} {'GiB':>6} {'expected':>9} {'ratio':>6}")
    for kind in flags.kinds:
        peak = run_again("--kind", kind)[-1]
        cost = ModelCost(
            facts,
            inputs,
            flags.device,
            finetune=FinetuneConfig(**KINDS[kind]),
            recompute=kind.endswith("recomputed"),
        )
        parts = phases(cost, True, 1, flags.micro_batch_tokens)["finetune"]
        wanted = sum(parts.values())
        print(f"{kind:<22} {peak / 2**30:6.2f} {wanted / 2**30:9.2f} {wanted / peak:6.2f}")


def peak_of(flags: argparse.Namespace) -> float:
    """Train; return the highest number of bytes, loading included."""
    facts = describe_model(local_source(str(flags.model), flags.model))
    device = torch.device(flags.device)
    ranks = Ranks.current(device)
    config = FinetuneConfig(**KINDS[flags.kind])
    model = load_model(flags.model, torch.float32).to(device)
    teacher = None
    if config.needs_teacher:
        dense = inference_dtype(flags.dtype, facts.dtype, device)
        teacher = load_model(flags.model, DTYPES[dense]).to(device).requires_grad_(False)
    masks = prune_(model, PRUNERS["magnitude"](PruneConfig()), Target(0.5), ranks).masks
    windows = random_windows(flags, facts, flags.tokens // flags.seq_len)
    # Two steps: the moments exist from the second step on, beside the activations.
    batches = windows.split(max(1, flags.tokens // 2 // flags.seq_len))
    loop = Loop(
        ranks,
        micro_batch=max(1, flags.micro_batch_tokens // flags.seq_len),
        compute_dtype=DTYPES[training_dtype(flags.dtype, device)],
        recompute=flags.kind.endswith("recomputed"),
    )
    finetune_(model, masks, batches, config, loop, teacher)
    return peak_memory(device)


if __name__ == "__main__":
    main()
