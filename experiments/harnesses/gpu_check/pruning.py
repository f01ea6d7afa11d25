"""Part: each method and option prunes the embedded model on the device and on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from core.activations import Calibration
from core.allocation import allocate, outlier_ratios
from core.config import PruneConfig
from core.models.blocks import prunable_matrices
from core.pruners import make_pruner
from core.pruners.masks import num_pruned
from core.ranks import Ranks
from core.sequential import prune_
from core.targets import Target
from gpu_check.embedded import (
    CASCADE,
    STRICT,
    UNSTEADY,
    Bounds,
    Outcome,
    both,
    compared,
    drawn,
    fresh,
    outcome,
)
from gpu_check.findings import Finding
from gpu_check.sizes import Place

MICRO_BATCH = 8


@dataclass(frozen=True)
class Setting:
    """A method, its target and its options."""

    method: str
    target: Target = Target(0.6)
    config: PruneConfig = PruneConfig()


def check(setting: Setting, place: Place) -> Finding:
    """Prune on both sides and compare; the numbers of zeros must be exact."""
    wanted = exact_count(setting)
    on_device, on_cpu = both(place, partial(prune, setting, place))
    finding = compared(on_device, on_cpu, bounds_of(setting))
    found = sum(on_device.pruned.values())
    finding.figures["wanted_zeros"] = wanted
    finding.require(found == wanted, f"{found} zeros instead of {wanted}")
    return finding


def bounds_of(setting: Setting) -> Bounds:
    """Return the bounds on the differences: magnitude looks at no inputs, so all blocks agree."""
    return {"magnitude": STRICT, "alps": UNSTEADY}.get(setting.method, CASCADE)


def prune(setting: Setting, place: Place, ranks: Ranks) -> Outcome:
    """Prune the embedded model as a prune stage does; return what comes out."""
    model, target = fresh(ranks), setting.target
    calibration = Calibration(drawn(place), MICRO_BATCH)
    if setting.config.allocation != "uniform":
        ratios = outlier_ratios(model, calibration, ranks)
        target = allocate(prunable_matrices(model), ratios, setting.target)
    pruner = make_pruner(setting.method, setting.config)
    done = prune_(model, pruner, target, ranks, calibration)
    found = outcome(model, done.masks, place, ranks)
    found.errors = done.errors
    return found


def exact_count(setting: Setting) -> int:
    """Return the number of zeros that the setting asks for, over all matrices."""
    matrices = prunable_matrices(fresh(Ranks.current("cpu"))).values()
    sparsity = setting.target.sparsity
    if setting.config.allocation != "uniform":
        return num_pruned(sparsity, sum(one.numel for one in matrices))
    if setting.method == "wanda" and setting.target.structure is None:
        return sum(one.rows * num_pruned(sparsity, one.cols) for one in matrices)
    return sum(num_pruned(sparsity, one.numel) for one in matrices)


SETTINGS = {
    "magnitude": Setting("magnitude"),
    "wanda": Setting("wanda"),
    "sparsegpt": Setting("sparsegpt"),
    "alps": Setting("alps"),
    "sparsegpt with swaps": Setting("sparsegpt", config=PruneConfig(refine="swaps")),
    "wanda 2:4": Setting("wanda", Target.structured("2:4")),
    "sparsegpt 2:4": Setting("sparsegpt", Target.structured("2:4")),
    "alps 2:4": Setting("alps", Target.structured("2:4")),
    "sparsegpt owl": Setting("sparsegpt", config=PruneConfig(allocation="owl")),
    "sparsegpt 4-bit": Setting("sparsegpt", config=PruneConfig(weight_bits=4)),
}
CASES: dict[str, Callable[[Place], Finding]] = {
    name: partial(check, setting) for name, setting in SETTINGS.items()
}
