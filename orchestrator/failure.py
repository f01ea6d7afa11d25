"""Errors told apart: no memory, no disk space, damage, or the work itself; one line for a row.

The walk uses this on a rank, the trial driver on what Ray says about its workers, and the command
line on itself. So nothing here knows Ray, and torch is imported only where it is running anyway.
"""

from __future__ import annotations

import errno
import os

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Disk full, quota used up, file too large."""
ALLOCATORS = (
    "can't allocate memory",
    "not enough memory",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "'out of memory'",
    "_STATUS_ALLOC_FAILED",
    "`cublasCreate(handle)`",
    "`cusolverDnCreate(handle)`",
)
"""Texts of a RuntimeError that means the same as MemoryError: of torch on CPUs and GPUs, of Triton,
of nccl, of cuBLAS, cuSOLVER and cuDNN. Making a handle of these fails for want of memory, though
the error has another name (not initialized, internal)."""


class DamagedStageError(Exception):
    """The files of a stored stage differ from its manifest; the stage has been set aside."""

    def __init__(self, stage_id: str, why: str) -> None:
        super().__init__(f"stage {stage_id} is damaged: {why}")
        self.stage_id = stage_id


class StuckError(Exception):
    """A wait took longer than --timeout-seconds."""


def is_no_space(error: BaseException) -> bool:
    """Return True if a write found no space; safetensors says so only in its text."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    return any(os.strerror(code) in str(error) for code in NO_SPACE)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if a CPU or a GPU had no memory left."""
    import torch  # It takes a second, which the command line does not have.

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in ALLOCATORS)


def out_of_memory(memory_bytes: float) -> str:
    """Return the error of a cell that ran out of memory, with the estimated bytes of a worker."""
    return (
        f"out of memory; estimated {memory_bytes / 2**30:.1f} GiB a worker: use more "
        "--num-workers, a smaller --micro-batch-tokens, or a larger machine"
    )


def no_space(place: str, error: BaseException) -> str:
    """Return the error of a sweep whose disk is full."""
    why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return f"--out-dir {place}: no space left ({why}); free some and run the same command again"
