"""The parts of the check by name: their modules and time limits."""

from __future__ import annotations

from dataclasses import dataclass

SECONDS = {"cuda": 360.0, "cpu": 600.0}
"""Seconds of the whole check by default."""
SLOWNESS = {"cuda": 1.0, "cpu": 3.0}
"""Factor of the limits of cases on a device."""


@dataclass(frozen=True)
class Part:
    """One part: a module of cases that run in one process."""

    name: str
    module: str
    """Module with the dict `CASES`: functions from a `Place` to a `Finding`, by name."""
    title: str
    limit: float
    """Seconds that one case may take on a GPU, if the whole check may take `SECONDS`."""
    alone: bool = False
    """True if other work on the machine would change the figures."""


PARTS = {
    part.name: part
    for part in (
        Part("environment", "gpu_check.environment", "Device and libraries", 40),
        Part("prune", "gpu_check.pruning", "Pruning: the device beside the CPU", 50),
        Part("train", "gpu_check.training", "Training: the device beside the CPU", 50),
        Part("sweep", "gpu_check.sweeps", "Sweeps through Ray", 100),
        Part("solve", "gpu_check.solvers", "Seconds of the solves of one block", 60, alone=True),
        Part("model", "gpu_check.whole_models", "Seconds of whole models", 60, alone=True),
        Part("rate", "gpu_check.token_rates", "Tokens a second", 60, alone=True),
    )
}
"""All parts, in the order of their rows: those about correctness before those about speed."""
