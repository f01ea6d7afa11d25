"""The one place that tells a CPU from a device to which the host sends its work.

On an accelerator each operation costs a launch of some microseconds, whatever its size, and each
value that the host reads makes it wait for all work before. Solvers then take fewer and larger
operations and look at a result every few steps. On a CPU small operations stay in its cache, and a
look costs nothing.
"""

from __future__ import annotations

import torch

HOSTS = frozenset({"cpu"})
"""Types of devices that do the host's work at once; tests change it to try the other way here."""


def is_accelerator(device: torch.device) -> bool:
    """Return True if operations are launched on the device and the host waits to read a value."""
    return device.type not in HOSTS
