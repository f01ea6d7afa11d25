"""Cost model of solves: operations, calls, and what ranks send each other.

The plan of a block (`plan.py`), the choice to share a factor, and the estimates of a run follow
from it.
"""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass

from core.ranks import Ranks
from core.split.factor import FACTOR_BLOCK

OPERATIONS_OF_A_CHOICE = 100.0
"""Operations in whose time a processor scores and compares one weight, which memory bounds."""
ROUNDS_OF_A_CHOICE = 4
"""Collectives of a few KB for one choice of the lowest scores of whole matrices."""
EXPERT_BYTES = 8 * 2**30
"""Bytes of the Hessians and new weights of experts that are observed in one forward pass."""
STACK_BYTES = 2 * 2**30
"""Bytes of experts that are solved at once on an accelerator."""
STACKED_COPIES = 5
"""Copies of H and of the weights that such a solve makes."""
ACCUMULATION_BLOCK = 256
"""Columns of one product while H accumulates: wide enough for full speed, narrow enough to skip the
half above the diagonal. Ranks sum the block rows."""
WIDTH = 4.0
"""Bytes of a float32, in which statistics and factors travel."""


@dataclass(frozen=True)
class Machine:
    """Speeds of the processes that share a solve, each of one CPU core or one GPU."""

    operations: float
    """float32 operations a second of a process."""
    column: float
    """Seconds of the calls for one column of a SparseGPT solve, however small the matrix is."""
    corner: float
    """Seconds to factor and invert one diagonal block of `FACTOR_BLOCK` columns."""
    bandwidth: float
    """Bytes a second that a process sends and receives in a large collective."""
    latency: float
    """Seconds of a collective of a few KB."""

    @classmethod
    def of(cls, ranks: Ranks) -> Machine:
        """Return the machine that plans assume; the same on every rank."""
        if ranks.device.type == "cpu":
            return CPU
        # Torch's and Ray's launchers set both.
        here, everywhere = (os.environ.get(f"{name}WORLD_SIZE") for name in ("LOCAL_", ""))
        return GPU if here == everywhere else GPU_NODES


CPU = Machine(operations=50e9, column=60e-6, corner=0.4e-3, bandwidth=1e9, latency=0.2e-3)
"""A core of a server and gloo between processes; rough figures, a plan needs no better ones."""
GPU = Machine(operations=12e12, column=3e-6, corner=0.2e-3, bandwidth=220e9, latency=20e-6)
"""A100s and NVLink by their data sheets, calls as launches of 5 us each; not measured."""
GPU_NODES = Machine(operations=12e12, column=3e-6, corner=0.2e-3, bandwidth=11e9, latency=40e-6)
"""The same cards, one in each machine, and 100 Gbit/s between them."""

MACHINES = {"cpu": CPU, "cuda": GPU}
"""The machine that estimates assume, by device."""


@dataclass(frozen=True)
class Work:
    """A solve of matrices [rows_i, cols] that read one input, by how ranks can share it."""

    rows: tuple[int, ...]
    """Rows of each matrix."""
    cols: int
    by_row: float
    """Operations of all rows together; each row takes the same."""
    factors: int = 0
    """Triangular factors of H, `cols^3 / 3` operations each."""
    inverses: int = 0
    """Inverses of H that do not wait for each other, `cols^3` operations each."""
    selections: int = 0
    """Choices of the lowest scores of whole matrices, one after another."""
    columns: int = 0
    """Columns that are solved one after another, on every rank."""

    @property
    def operations(self) -> float:
        """All operations."""
        return self.by_row + (self.factors / 3 + self.inverses) * self.cols**3


@functools.cache
def solve_seconds(work: Work, size: int, machine: Machine) -> float:
    """Return the seconds in which `size` ranks solve; infinite if a rank would have no row."""
    if size > min(work.rows):
        return math.inf
    share = sum(-(-rows // size) for rows in work.rows) / sum(work.rows)
    inverses = -(-work.inverses // size) * work.cols**3
    seconds = (work.by_row * share + inverses) / machine.operations + work.columns * machine.column
    if work.factors:
        seconds += work.factors * factor_seconds(work.cols, size, machine)
    if size > 1:
        messages = work.selections * ROUNDS_OF_A_CHOICE + work.inverses
        sent = work.inverses * WIDTH * work.cols**2
        seconds += messages * machine.latency + sent / machine.bandwidth
    return seconds


def shares_factor(cols: int, size: int, machine: Machine) -> bool:
    """Return True if ranks that share a factor have it sooner than if each computes it alone."""
    shared, alone = shared_factor_seconds(cols, size, machine), factor_seconds(cols, 1, machine)
    return size > 1 and shared < alone


def factor_seconds(cols: int, size: int, machine: Machine) -> float:
    """Return the seconds after which all of `size` ranks have a factor."""
    alone = cols**3 / 3 / machine.operations + -(-cols // FACTOR_BLOCK) * machine.corner
    return alone if size == 1 else min(alone, shared_factor_seconds(cols, size, machine))


@functools.cache
def shared_factor_seconds(cols: int, size: int, machine: Machine) -> float:
    """Return the seconds in which ranks share a factor, as `factor.reversed_cholesky` does."""
    blocks = -(-cols // FACTOR_BLOCK)
    # Block row k is one product with the rows after it, in the columns of the rank that has most.
    widths = (-(-(k + 1) // size) for k in range(blocks))
    products = sum(2.0 * (blocks - 1 - k) * width for k, width in enumerate(widths))
    seconds = products * FACTOR_BLOCK**3 / machine.operations + blocks * machine.corner
    return seconds + 2 * blocks * machine.latency + WIDTH * cols**2 / 2 / machine.bandwidth


def statistic_seconds(cols: int, team: int, size: int, machine: Machine) -> float:
    """Return the seconds in which `size` ranks sum the Hessian of an input for a team of them.

    A single rank gets the sum at the cost of one pass, a larger team at that of two.
    """
    if size == 1:
        return 0.0
    passes = 1 if team == 1 else 2
    # Block rows up to the diagonal.
    sent = WIDTH * cols * (cols + ACCUMULATION_BLOCK) / 2
    return passes * (size - 1) / size * sent / machine.bandwidth


def result_seconds(weights: int, width: int, size: int, machine: Machine) -> float:
    """Return the seconds in which all ranks get pruned weights of `width` bytes and their masks."""
    return weights * (width + 1 / 8) / machine.bandwidth if size > 1 else 0.0
