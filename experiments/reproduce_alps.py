"""Do we get the ALPS paper's table of OPT-1.3B? One-shot at 40 to 90 %, 2:4 and 4:8, five seeds.

    python experiments/reproduce_alps.py                          # weights and texts from the hub
    python experiments/reproduce_alps.py --models path/to/opt-1.3b --sparsities 0.7 --seeds 0
    python experiments/reproduce_alps.py --dry-run

After the sweep each value is printed beside the published one. The exit code is 0 only if at least
one value was judged, and none of these differs by more than seeds explain.
orchestrator/publish/comparison.py gives the rule. The time was not measured; `--dry-run` estimates
it.

Published perplexities on raw WikiText-2 from ALPS (Meng et al. 2024, arXiv 2406.07831, tables 10 to
17): means of five seeds, with the standard deviations that are known. The dense model has 14.62
(SparseGPT paper).

               40 %   50 %       60 %       70 %       80 %     90 %   2:4        4:8
    magnitude  149.7  799.5      6136       9409       10988    20486  427.1      240.1
    wanda      16.09  18.62      27.17      100.8      3327     13290  28.34      22.40
    sparsegpt  16.34  17.77±.09  22.86±.30  52.02±2.2  1005±76  7771   24.39±.62  20.23±.35
    alps       15.67  17.29      21.51      39.50±2.4  326.7    4891   22.68      19.48

The same tables on PTB and on C4. The protocol reads both as the ALPS code does:

    PTB        40 %   50 %   60 %   70 %   80 %   90 %   2:4    4:8
    magnitude  131.9  536.0  4017   6689   8966   13134  343.6  241.4
    wanda      21.13  26.60  42.55  128.4  1783   7120   41.67  32.41
    sparsegpt  19.57  22.08  29.29  70.10  521.0  5797   32.50  25.28
    alps       18.72  21.61  28.17  50.68  311.3  2900   27.63  23.65

    C4         40 %   50 %   60 %   70 %   80 %   90 %   2:4    4:8
    magnitude  95.35  270.6  2232   5652   7767   11298  127.0  90.84
    wanda      16.43  18.74  25.46  78.58  1306   7376   25.73  21.34
    sparsegpt  16.91  17.55  20.94  37.05  311.9  2761   22.81  19.42
    alps       15.79  16.97  19.62  28.52  117.3  1415   20.16  18.19
"""

import sys

from core.config import EvalConfig
from orchestrator.cli import main
from orchestrator.config import GridConfig, OutputConfig, SweepConfig
from orchestrator.publish.verdict import against_tables

PRESET = SweepConfig(
    grid=GridConfig(
        models=("facebook/opt-1.3b",),
        methods=("magnitude", "wanda", "sparsegpt", "alps"),
        regimes=("oneshot",),
        sparsities=(0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        mask_structures=("2:4", "4:8"),
        seeds=(0, 1, 2, 3, 4),
        protocol="alps",
    ),
    eval=EvalConfig(texts=("wikitext2", "ptb", "c4")),
    output=OutputConfig(out_dir="results/reproduce_alps"),
)

if __name__ == "__main__":
    sys.exit(main(PRESET, __doc__ or "", against_tables("ALPS paper", "SparseGPT paper")))
