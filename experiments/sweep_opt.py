"""Find how far OPT can be pruned, with which method, and what fine-tuning wins back.

    python experiments/sweep_opt.py                # small OPT, this machine
    python experiments/sweep_opt.py --dry-run      # cells, memory, time
    python experiments/sweep_opt.py --models facebook/opt-125m --regimes oneshot

The same command again goes on where it stopped and computes nothing twice.
"""

import sys

from orchestrator.cli import main
from orchestrator.config import GridConfig, OutputConfig, SweepConfig

PRESET = SweepConfig(
    grid=GridConfig(
        models=("embedded",),
        methods=("magnitude", "wanda", "sparsegpt"),
        regimes=("oneshot", "finetune", "iterative"),
        sparsities=(0.3, 0.5, 0.7, 0.8, 0.9),
    ),
    output=OutputConfig(out_dir="results/sweep_opt"),
)

if __name__ == "__main__":
    sys.exit(main(PRESET, __doc__ or ""))
