"""The methods: one file each behind the contract of `base.py`."""

from core.config import PruneConfig
from core.pruners.alps import Alps
from core.pruners.base import Pruner
from core.pruners.magnitude import Magnitude
from core.pruners.refine import Refined
from core.pruners.sparsegpt import SparseGPT
from core.pruners.wanda import Wanda

PRUNERS: dict[str, type[Pruner]] = {
    pruner.name: pruner for pruner in (Magnitude, Wanda, SparseGPT, Alps)
}

__all__ = ["PRUNERS", "Pruned", "Pruner", "PruningError", "Solution", "Statistic"]
__all__ += ["make_pruner", "needs_calibration"]


def make_pruner(method: str, config: PruneConfig) -> Pruner:
    """The pruner of a method, with the refinement that the config asks for."""
    pruner = PRUNERS[method](config)
    return pruner if config.refine is None else Refined(config, pruner)


def needs_calibration(method: str, config: PruneConfig) -> bool:
    """Whether a method, set like this, looks at the inputs of layers."""
    return config.allocation != "uniform" or make_pruner(method, config).statistic is not None
