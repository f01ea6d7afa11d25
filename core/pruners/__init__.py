"""The pruning methods, one file each behind the contract of `base.py`."""

from core.config import PruneConfig
from core.pruners.alps import Alps
from core.pruners.base import Pruner
from core.pruners.magnitude import Magnitude
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
