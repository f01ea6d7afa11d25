"""Layer error of experts by the tokens that they saw and by the weight of pseudo-tokens.

    python experiments/benches/measure_experts.py [--block 2] [--experts 8] [--sparsity 0.5]
        [--mean-of 4]

No small mixture with trained weights is shipped, so the MLP of the embedded model stands for every
expert, and random directions for the router: a token goes to the two experts whose directions its
input is nearest to. So experts read different inputs, as trained ones do. Each line has a number of
routed tokens for each expert. Columns are the weights of the mean of all tokens, in pseudo-tokens
for each input, then all tokens alone, and magnitude. Values are the relative errors on held-out
tokens that go to the same expert, the mean over experts. Takes a minute.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor

from core.config import PruneConfig
from core.models.blocks import prunable_blocks
from core.models.calls import Calls
from core.models.loading import load_model
from core.models.sources import resolve_model, weights_dir
from core.models.tokenizers import load_tokenizer
from core.pruners import make_pruner
from core.pruners.hessian import Hessian
from core.pruners.layer_error import relative_error
from core.targets import Target
from core.texts.sources import resolve_text
from core.texts.windows import calibration_windows

PSEUDO = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
CPU = torch.device("cpu")


@torch.no_grad()
def main() -> None:
    """Print a table for each matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--block", type=int, default=2)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--mean-of", type=int, help="tokens for each input; by default all")
    flags = parser.parse_args()
    (one, other), found = inputs_of(flags.block)
    router = torch.randn(one.cols, flags.experts, generator=torch.Generator().manual_seed(0))
    chosen = [(x[one.name] @ router).topk(2, dim=1).indices for x in found]
    for matrix in (one, other):
        every = found[0][matrix.name]
        if flags.mean_of is not None:
            every = every[:: max(1, len(every) // (flags.mean_of * matrix.cols))]
        print(f"{matrix.name}, {matrix.cols} inputs")
        print("tokens  " + "".join(f"{pseudo:>9g}" for pseudo in PSEUDO) + "      all  magnitude")
        for tokens in (8, 32, matrix.cols // 2, matrix.cols, 2 * matrix.cols):
            rows = [
                errors(matrix.read(), mine, flags.sparsity, every)
                for e in range(flags.experts)
                if (mine := parts(found, chosen, matrix.name, e, tokens)) is not None
            ]
            means = torch.tensor(rows).mean(0).tolist()
            print(f"{tokens:6}  " + "".join(f"{error:9.4f}" for error in means))


def inputs_of(index: int):
    """Return the MLP's matrices of a block, and their inputs on two samples of windows."""
    folder = weights_dir(resolve_model("embedded"))
    model, tokenizer = load_model(folder, torch.float32), load_tokenizer(folder)
    text, found = resolve_text("embedded", "calibration"), []
    for seed in (0, 1):
        windows = calibration_windows(text, tokenizer, 64, 256, None, seed)
        calls, seen = Calls(model, CPU), {}
        hidden = calls.add(windows)
        for block in prunable_blocks(model)[: index + 1]:
            matrices = list(block.matrices.values())[-2:]
            hooks = [m.observe(partial(seen.__setitem__, m.name)) for m in matrices]
            hidden = calls.run(block.module, block.index, 0, hidden)
            for hook in hooks:
                hook.remove()
        found.append({m.name: seen[m.name].flatten(0, -2) for m in matrices})
    return matrices, found


def parts(found, chosen, name: str, expert: int, tokens: int):
    """Return routed tokens of an expert, and held-out ones; None if it has too few."""
    seen, held = (x[name][(c == expert).any(1)] for x, c in zip(found, chosen, strict=True))
    spread = torch.randperm(len(seen), generator=torch.Generator().manual_seed(expert))
    return None if len(seen) < tokens else (seen[spread[:tokens]], held)


def statistic_of(x: Tensor) -> Hessian:
    """Return the statistic of inputs [tokens, cols]."""
    found = Hessian(x.shape[1], CPU)
    found.update(x)
    return found


def errors(weight: Tensor, mine: tuple[Tensor, Tensor], sparsity: float, every: Tensor):
    """Return the held-out error with each weight of the mean of all tokens, and two others."""
    held = statistic_of(mine[1])
    everything, found = statistic_of(every), []
    solver, magnitude = (make_pruner(name, PruneConfig()) for name in ("sparsegpt", "magnitude"))
    for pseudo in (*PSEUDO, None):
        statistic = statistic_of(every[:0] if pseudo is None else mine[0])
        share = 1.0 if pseudo is None else pseudo * weight.shape[1] / len(every)
        statistic.merge_(everything, share)
        found.append(solver.prune([weight], statistic, Target(sparsity)).matrices[0].weight)
    found.append(magnitude.prune([weight], None, Target(sparsity)).matrices[0].weight)
    return [relative_error(held, weight, new) for new in found]


if __name__ == "__main__":
    main()
