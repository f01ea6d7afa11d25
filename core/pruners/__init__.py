"""Pruning methods, one file each behind one contract.

A pruner gets the weights of matrices that read the same input, with a statistic of that input, and
returns new weights and masks.

    pruner.py       the contract: Pruner, Statistic, Pruned, Solution, PruningError
    hessian.py      the statistics (input norms, Hessian) and the triangular factor of a Hessian
    masks.py        scores -> masks with exact counts
    magnitude.py  wanda.py  sparsegpt.py  alps.py     the methods
    column_choice.py  panels.py     SparseGPT's mask and solve of a few columns
    stacked.py      SparseGPT of the experts of a layer at once
    conjugate_gradients.py          weights on a mask, for ALPS and refinement
    quantise.py     rounding to a few bits within SparseGPT's pass
    refine.py       another method's result made better by swaps.py and conjugate gradients
    swaps.py        the search for swaps of a survivor and a pruned weight
    layer_error.py  relative error of a layer's output after pruning
"""

from core.config import PruneConfig
from core.pruners.alps import Alps
from core.pruners.magnitude import Magnitude
from core.pruners.pruner import Pruner
from core.pruners.refine import Refined
from core.pruners.sparsegpt import SparseGPT
from core.pruners.wanda import Wanda

PRUNERS: dict[str, type[Pruner]] = {
    pruner.facts.name: pruner for pruner in (Magnitude, Wanda, SparseGPT, Alps)
}
"""The class of each method of `core/methods.py`."""


def make_pruner(method: str, config: PruneConfig) -> Pruner:
    """Return the pruner of a method, with the refinement that the config asks for."""
    pruner = PRUNERS[method](config)
    return pruner if config.refine is None else Refined(config, pruner)
