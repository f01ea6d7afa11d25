"""Cost model of solves: operations, calls of columns, and what ranks send each other.

The plan of a block (`plan.py`) and the estimates of a run follow from it.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from core.parallel import Ranks

COLUMN_SECONDS = 60e-6
"""Calls of one column of a SparseGPT solve, which take this long however small the matrix is."""
OPERATIONS_OF_A_CHOICE = 100.0
"""Operations in whose time a processor scores and compares one weight, which memory bounds."""
SELECTION_ROUNDS = 4
"""Collectives of a few KB for one choice of the lowest scores of whole matrices."""


@dataclass(frozen=True)
class Machine:
    """Speeds of the processes that share a solve."""

    operations: float
    """float32 operations a second of one rank."""
    bandwidth: float
    """Bytes a second that each rank sends and receives in a large collective."""
    latency: float
    """Seconds of a collective of a few KB."""

    @classmethod
    def of(cls, ranks: Ranks) -> Machine:
        """Return the machine that plans assume; the same on every rank."""
        if ranks.device.type == "cpu":
            return CPU
        # Torch's and Ray's launchers both set these.
        here, all_ranks = (os.environ.get(f"{name}WORLD_SIZE") for name in ("LOCAL_", ""))
        return ONE_NODE if here == all_ranks else MANY_NODES


CPU = Machine(operations=50e9, bandwidth=1e9, latency=150e-6)
"""A core of a machine, and gloo between its processes."""
ONE_NODE = Machine(operations=18e12, bandwidth=200e9, latency=20e-6)
"""GPUs of one machine, joined by NVLink."""
MANY_NODES = Machine(operations=18e12, bandwidth=10e9, latency=40e-6)
"""GPUs behind 100 Gbit/s."""


@dataclass(frozen=True)
class Work:
    """A solve of matrices [rows_i, cols] that read one input, by how ranks can share it."""

    rows: tuple[int, ...]
    """Rows of each matrix."""
    cols: int
    by_row: float
    """Operations that are the same for every row, all rows together."""
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


def solve_seconds(work: Work, size: int, machine: Machine) -> float:
    """Return the seconds in which `size` ranks solve; infinite if a rank would have no row."""
    if size > min(work.rows):
        return math.inf
    share = sum(-(-rows // size) for rows in work.rows) / sum(work.rows)
    inverses = -(-work.inverses // size) * work.cols**3
    seconds = (work.by_row * share + inverses) / machine.operations
    seconds += work.columns * COLUMN_SECONDS + work.factors * factor_seconds(work.cols, machine)
    if size > 1:
        seconds += work.selections * SELECTION_ROUNDS * machine.latency
        sent = work.inverses * 4.0 * work.cols**2
        seconds += sent / machine.bandwidth + work.inverses * machine.latency
    return seconds


def factor_seconds(cols: int, machine: Machine) -> float:
    """Return the seconds of a triangular factor."""
    return cols**3 / 3 / machine.operations
