"""Facts of the pruning methods that plans and flags need, without importing torch.

The class of each method in `core/pruners/` takes its facts from this table, so each fact is written
once. Versions enter stage identities. Raise one whenever the numbers that it stands for change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from core.checks import require_known
from core.config import PruneConfig

StatisticName = Literal["InputNorms", "Hessian"]

COMMON_FIELDS = ("refine", "allocation", "keep_zeros", "routers")
"""`PruneConfig` fields that every method reads."""
COMPENSATED_FIELDS = (*COMMON_FIELDS, "dampening_frac", "block_size", "uncompensated")
"""Fields that every method reads that moves survivors."""
OPTION_VERSIONS = {"refine": 3, "allocation": 1, "weight_bits": 1, "keep_zeros": 1}
OPTION_VERSIONS |= {"uncompensated": 1, "routers": 1}
"""Version of each option of `PruneConfig`; part of an identity only where the option is on."""


@dataclass(frozen=True)
class Method:
    """Facts of one method."""

    name: str
    version: int
    summary: str
    """One line for people who choose a method."""
    fields_read: tuple[str, ...] = COMMON_FIELDS
    """The `PruneConfig` fields that this method reads; only they enter a stage's identity."""
    statistic: StatisticName | None = None
    """Statistic of layer inputs that the method needs by itself; refinement needs the Hessian."""
    keeps_values: bool = False
    """True if survivors keep their original value."""
    by_row: bool = False
    """True if each row of a matrix prunes the same count (with a uniform allocation)."""


METHODS = {
    method.name: method
    for method in (
        Method("magnitude", 1, "smallest weights of a matrix; no calibration", keeps_values=True),
        Method(
            "wanda",
            1,
            "weight times input norm, row by row (arXiv 2306.11695)",
            statistic="InputNorms",
            keeps_values=True,
            by_row=True,
        ),
        Method(
            "sparsegpt",
            2,
            "prunes column by column and compensates (arXiv 2301.00774)",
            (*COMPENSATED_FIELDS, "weight_bits", "quant_group_size"),
            "Hessian",
        ),
        Method(
            "alps",
            4,
            "ADMM mask, conjugate-gradient weights (arXiv 2406.07831)",
            COMPENSATED_FIELDS,
            "Hessian",
        ),
    )
}
"""All methods that prune, by name, the cheapest first."""
JOINT_METHODS = {
    "elsa": Method(
        "elsa",
        1,
        "weights and mask trained together (arXiv 2510.01650)",
        ("keep_zeros",),
    )
}
"""All methods that find masks by training; each has the regime `joint` and no other."""
EVERY_METHOD = METHODS | JOINT_METHODS
"""All methods by name."""


def needs_calibration(method: str, config: PruneConfig) -> bool:
    """Return True if a method with these settings looks at the inputs of layers."""
    facts = EVERY_METHOD[method]
    asked = {"refine": config.refine is not None, "allocation": config.allocation != "uniform"}
    return facts.statistic is not None or any(asked.get(name) for name in facts.fields_read)


def require_matrices(config: PruneConfig, names: Iterable[str]) -> None:
    """Refuse settings for matrices that a model does not have.

    Args:
        config: the settings.
        names: of all prunable matrices of the model.
    """
    known = dict.fromkeys(name.rpartition(".")[2] for name in names)
    for name in config.uncompensated:
        require_known("prune.uncompensated", name, known)
