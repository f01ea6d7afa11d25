"""Claims of Prune and Tune, checked: one-shot, fine-tuned and iterative, OPT at 10 to 90 %.

    python experiments/reproduce_prune_and_tune.py                # weights and texts from the hub
    python experiments/reproduce_prune_and_tune.py --models path/to/opt-125m --methods sparsegpt
    python experiments/reproduce_prune_and_tune.py --dry-run

The paper shows a figure and no table, so there is no published value to print beside ours. Instead
each of its claims on perplexity on WikiText-2 is checked after the sweep:

- Iterative SparseGPT with fine-tuning is best beyond sparsity 0.4 on OPT-125M and beyond 0.6 on
  OPT-1.3B.
- Beyond 0.5, one-shot pruning plus fine-tuning loses to both iterative variants.

The exit code is 0 only if a claim holds somewhere and none fails anywhere. Two curves that are
closer together than three standard errors are "not judged". The preset has one seed, so the
standard deviation is the largest that papers print near that sparsity, for one-shot pruning (0.6 %
up to 0.5, 1.3 % at 0.6, 6 to 8 % beyond). `--seeds 0 1 2` uses our own, at three times the cost.
The time was not measured; `--dry-run` estimates it.

The paper's logs have one-shot SparseGPT of OPT-125M: 0.1 -> 27.81, 0.3 -> 57.4, 0.5 -> 725,
0.7 -> 5721. We do not compare with these values: their solver used the inverse Hessian in place of
its Cholesky factor. Their dense 27.66 comes from windows of 2048 that do not overlap, not from this
protocol (the SparseGPT paper has 36.85 at 0.5 in such windows).
"""

import sys

from core.config import FinetuneConfig
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
    finetune=FinetuneConfig(),  # The paper's loss of the next token.
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
    # Above 0.6 the claim before this one includes it.
    Claim("facebook/opt-1.3b", ITERATIVE, (TUNED, TUNED_MAGNITUDE), beyond=0.5, up_to=0.6),
    Claim("facebook/opt-1.3b", ITERATIVE_MAGNITUDE, (TUNED, TUNED_MAGNITUDE), beyond=0.5),
)
NOTE = """\
Prune and Tune prints no table, so its claims are checked on our own values. Its logs' values
(OPT-125M at 0.5: 725) come from a faulty solver and other windows, so none is compared with."""

if __name__ == "__main__":
    sys.exit(main(PRESET, __doc__ or "", against_claims(CLAIMS, NOTE)))
