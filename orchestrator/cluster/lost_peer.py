"""Errors by which gloo, nccl and torch's key store tell that another rank has ended or is late.

They follow from what happened to the other rank, so its own error is looked for first. gloo raises
a plain RuntimeError, so we compare the beginning of its text.
"""

from __future__ import annotations

import re

PLACE = r"(?:\[[^\]]*\] )?"
"""gloo begins with the place in its sources."""
GONE = re.compile(PLACE + r"(?:Connection (?:closed|reset) by peer|Gloo connectFullMesh failed)")
LATE = re.compile(PLACE + r"Timed out waiting \d+ms")
NCCL_GONE, NCCL_LATE = "remote process exited", "collective operation timeout"
"""Words of nccl, and of torch's watchdog over it, within torch's error for backends."""
STORE_LATE = re.compile(r"wait timeout|timed out", re.IGNORECASE)
"""Words of torch's key store for a rank that does not come; its other errors are lost ranks."""


def peer_is_gone(error: BaseException) -> bool:
    """Return True if an error says that another rank has ended."""
    if type(error) is RuntimeError:
        return GONE.match(str(error)) is not None
    if is_of_store(error):
        return STORE_LATE.search(str(error)) is None
    return is_of_backend(error) and NCCL_GONE in str(error)


def peer_is_late(error: BaseException) -> bool:
    """Return True if an error says that another rank did not come in time."""
    if type(error) is RuntimeError:
        return LATE.match(str(error)) is not None
    if is_of_store(error):
        return STORE_LATE.search(str(error)) is not None
    return is_of_backend(error) and NCCL_LATE in str(error)


def is_of_store(error: BaseException) -> bool:
    """Return True for an error of the store in which torch's ranks find each other."""
    import torch.distributed as dist  # Seconds that a driver needs only after a failure.

    return isinstance(error, dist.DistNetworkError | dist.DistStoreError)


def is_of_backend(error: BaseException) -> bool:
    """Return True for an error of nccl, as torch raises it."""
    import torch.distributed as dist

    return isinstance(error, dist.DistBackendError)
