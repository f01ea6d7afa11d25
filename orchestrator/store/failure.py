"""What went wrong, told apart: memory, disk, damage, or the work itself; one line for a row.

Nothing here knows Ray: the walk uses it on a rank, the driver on what Ray says of its workers, the
command line on itself.
"""

from __future__ import annotations

import errno
import os

import torch

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Disk full, quota used up, file larger than allowed."""
CPU_ALLOCATOR = ("can't allocate memory", "not enough memory")
"""How torch says MemoryError on a CPU: a RuntimeError with one of these."""


class DamagedStageError(Exception):
    """A stored stage whose files are not what its manifest says; it has been set aside."""

    def __init__(self, stage_id: str, why: str) -> None:
        super().__init__(f"stage {stage_id} is damaged: {why}")
        self.stage_id = stage_id


class StuckError(Exception):
    """Something waited for longer than --timeout-seconds."""


def is_bad_input(error: ValueError) -> bool:
    """Whether the user can mend it: Arrow's own errors are of tables that we have built."""
    return not type(error).__module__.startswith("pyarrow")


def is_no_space(error: BaseException) -> bool:
    """Whether a write failed for want of space; safetensors only says so in its text."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    return any(os.strerror(code) in str(error) for code in NO_SPACE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be had, on a CPU or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in CPU_ALLOCATOR)


def out_of_memory(memory_bytes: float) -> str:
    """The line of a cell that ran out of memory, with the memory that was expected to do."""
    return (
        f"out of memory; estimated {memory_bytes / 2**30:.1f} GiB a worker: use more "
        "--num-workers, a smaller --micro-batch-tokens, or a larger machine"
    )


def no_space(place: str, error: BaseException) -> str:
    """The line of a sweep whose disk is full."""
    why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return f"--out-dir {place}: no space left ({why}); free some and run the same command again"
