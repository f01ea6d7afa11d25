"""Do we get the SparseGPT paper's tables of OPT? One-shot at 50 %, 2:4 and 4:8.

    python experiments/reproduce_sparsegpt.py                      # weights and texts from the hub
    python experiments/reproduce_sparsegpt.py --models path/to/opt-125m --eval.texts wikitext2
    python experiments/reproduce_sparsegpt.py --dry-run

After the sweep each value is printed beside the published one. The exit code is 0 only if at least
one value was judged, and none of these differs by more than seeds explain.
orchestrator/publish/comparison.py gives the rule. The time was not measured; `--dry-run` estimates
it.

Published perplexities on raw WikiText-2 / PTB / C4, one seed, from SparseGPT (Frantar & Alistarh
2023, arXiv 2301.00774, tables 1, 3, 4). A value that stands alone is WikiText-2 from SLiM
(Mozaffari et al. 2024, arXiv 2410.09615, table 13).

                   OPT-125M            OPT-350M            OPT-1.3B           OPT-2.7B
    dense          27.66/38.99/26.56   22.00/31.07/22.59   14.62/20.29/16.07  12.47/17.97/14.32
    magnitude 50%  193/276/141         97.8/126/77.04      17000/3100/403     265/262/63.43
    wanda 50%      39.3                36.4                18.3               14.3
    sparsegpt 50%  36.85/55.06/33.42   31.58/43.80/29.18   17.46/25.80/19.36  13.48/20.45/15.78
    magnitude 2:4  341.5               417.1               427.2              1200
    wanda 2:4      81.6                116                 27.8               21.4
    sparsegpt 2:4  60.7                50.7                23.8               17.18/26.88/19.36
    sparsegpt 4:8                                                             14.98/23.02/17.21

OPT-2.7B at 50 % on WikiText-2 is compared with the mean of that paper's five seeds, 13.52 ± 0.075;
the 13.48 of its table is one of them. Papers disagree on magnitude pruning of OPT-1.3B, from 799 to
17,000, so it is no target.
"""

import sys

from core.config import EvalConfig
from orchestrator.cli import main
from orchestrator.config import GridConfig, OutputConfig, SweepConfig
from orchestrator.publish.verdict import against_tables

PRESET = SweepConfig(
    grid=GridConfig(
        models=tuple(f"facebook/opt-{size}" for size in ("125m", "350m", "1.3b", "2.7b")),
        methods=("magnitude", "wanda", "sparsegpt"),
        regimes=("oneshot",),
        sparsities=(0.5,),
        mask_structures=("2:4", "4:8"),
        protocol="sparsegpt",
    ),
    eval=EvalConfig(texts=("wikitext2", "ptb", "c4")),
    output=OutputConfig(out_dir="results/reproduce_sparsegpt"),
)

if __name__ == "__main__":
    sys.exit(main(PRESET, __doc__ or "", against_tables("SparseGPT paper", "SLiM paper")))
