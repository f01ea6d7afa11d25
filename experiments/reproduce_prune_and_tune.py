"""The figure of Prune and Tune: one-shot, fine-tuned and iterative pruning of OPT, 10 to 90 %.

    python experiments/reproduce_prune_and_tune.py                # weights and texts from the hub
    python experiments/reproduce_prune_and_tune.py --models path/to/opt-125m --methods sparsegpt
    python experiments/reproduce_prune_and_tune.py --dry-run

No table of that figure is public, so there is no published value to print beside ours. What the
paper claims of perplexity on WikiText-2 is looked at instead, after the sweep, claim by claim:

- Iterative SparseGPT with fine-tuning is best beyond sparsity 0.4 on OPT-125M and beyond 0.6 on
  OPT-1.3B.
- Beyond 0.5, one-shot pruning plus fine-tuning loses to both iterative variants.

The exit code is 0 only where a claim holds somewhere and none fails anywhere. The preset has one
seed, so two curves closer together than seeds scatter are "not judged": three standard errors, from
the largest standard deviation that papers print near that sparsity, of one-shot pruning (0.6 % up
to 0.5, 1.3 % at 0.6, 6 to 8 % beyond). `--seeds 0 1 2` puts our own in its place, at three times
the cost.

The paper's logs have one-shot SparseGPT of OPT-125M: 0.1 -> 27.81, 0.3 -> 57.4, 0.5 -> 725,
0.7 -> 5721. These are values not to meet, and not compared with: their solver used the inverse
Hessian in place of its Cholesky factor, and their dense 27.66 is that of windows of 2048 which do
not overlap, not of this protocol (the SparseGPT paper has 36.85 at 0.5 in such windows).
"""

import sys

from orchestrator.cli import main
from orchestrator.config import GridConfig, OutputConfig, SweepConfig
from orchestrator.publish.verdict import Claim, against_claims

PRESET = SweepConfig(
    grid=GridConfig(
        models=("facebook/opt-125m", "facebook/opt-1.3b"),
        methods=("magnitude", "sparsegpt"),
        regimes=("oneshot", "finetune", "iterative"),
        sparsities=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        protocol="prune-and-tune",
    ),
    output=OutputConfig(out_dir="results/reproduce_prune_and_tune"),
)

ITERATIVE, TUNED = ("sparsegpt", "iterative"), ("sparsegpt", "finetune")
ITERATIVE_MAGNITUDE, TUNED_MAGNITUDE = ("magnitude", "iterative"), ("magnitude", "finetune")
ONESHOT, ONESHOT_MAGNITUDE = ("sparsegpt", "oneshot"), ("magnitude", "oneshot")
REST = (ITERATIVE_MAGNITUDE, TUNED, TUNED_MAGNITUDE, ONESHOT, ONESHOT_MAGNITUDE)
CLAIMS = (
    Claim("facebook/opt-125m", ITERATIVE, REST, beyond=0.4),
    Claim("facebook/opt-125m", ITERATIVE_MAGNITUDE, (TUNED, TUNED_MAGNITUDE), beyond=0.5),
    Claim("facebook/opt-1.3b", ITERATIVE, REST, beyond=0.6),
    # Beyond 0.6 the claim before it says so already.
    Claim("facebook/opt-1.3b", ITERATIVE, (TUNED, TUNED_MAGNITUDE), beyond=0.5, up_to=0.6),
    Claim("facebook/opt-1.3b", ITERATIVE_MAGNITUDE, (TUNED, TUNED_MAGNITUDE), beyond=0.5),
)
NOTE = """\
Prune and Tune prints no table: its claims, ours against ours. The values in its logs (OPT-125M at
0.5: 725) come of a faulty solver and of other windows than these, so none is compared with."""

if __name__ == "__main__":
    sys.exit(main(PRESET, __doc__ or "", against_claims(CLAIMS, NOTE)))
