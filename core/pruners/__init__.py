"""The methods: one file each behind the contract of `base.py`."""

from core.pruners.base import Pruned, Pruner, PruningError, Solution, Statistic
from core.pruners.magnitude import Magnitude
from core.pruners.sparsegpt import SparseGPT
from core.pruners.wanda import Wanda

PRUNERS: dict[str, type[Pruner]] = {pruner.name: pruner for pruner in (Magnitude, Wanda, SparseGPT)}

__all__ = ["PRUNERS", "Pruned", "Pruner", "PruningError", "Solution", "Statistic"]
