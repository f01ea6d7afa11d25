"""A job: one trial as its worker group needs it, whole without the plan that it came from."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from core.models.sources import ModelSource
from core.targets import Target
from core.texts.sources import Text
from orchestrator.plan.cell import Cell
from orchestrator.plan.stages import Stage


@dataclass(frozen=True)
class Workers:
    """The worker group of a trial."""

    device: str
    """`cpu` or `cuda`."""
    num_workers: int
    threads: int
    """CPU cores, and torch threads, of a worker."""
    micro_batch_tokens: int
    """Tokens a forward pass."""
    memory_bytes: float
    """Estimated peak of a worker."""
    untrained_bytes: float = 0.0
    """Estimated peak of a worker that prunes and evaluates a whole model, or its shard of one."""
    streamed_bytes: float = 0.0
    """Estimated peak of a worker that streams the model, without hidden states."""
    gpus: float = 1.0
    """GPUs of a worker; workers of a fraction share a card."""
    activation_checkpointing: bool = False
    """True if training runs blocks again instead of keeping their activations."""
    cpu_offload: bool = False
    """True if shards stay in host memory."""
    at_once: int | None = None
    """Worker processes of the sweep at a time, in the cluster or, once they run, on a node. None if
    that is not known."""


@dataclass(frozen=True)
class Limits:
    """Limits of waiting and of hopeless work."""

    checkpoint_seconds: float
    """Least time between two checkpoints within a round of training, or of pruning."""
    timeout_seconds: float
    """Longest wait for other ranks, for a report and for a sign of life."""
    stop_perplexity: float | None
    """Nothing goes on from weights above this perplexity."""
    block_seconds: float = 0.0
    """Estimated seconds of the block that takes longest to prune: other ranks may wait for it."""


@dataclass(frozen=True)
class Run:
    """The sweep that a trial belongs to, as rows and manifests record it."""

    sweep_id: str
    configs: tuple[str, ...]
    """Settings of each block of the sweep as JSON."""
    sources: str
    """Hash of the command's sources; workers with others refuse the job."""
    attempt: str = ""
    """Name of this run of the sweep: a cell is open until this run has written its rows."""


@dataclass(frozen=True)
class Job:
    """One trial, ready to cross to its workers."""

    id: str
    source: ModelSource
    max_seq_len: int
    """Tokens that the model reads at most."""
    root: Stage
    """The dense stage."""
    stages: tuple[Stage, ...]
    """Stages to run, parents first."""
    known: tuple[Stage, ...]
    """Those and all others that the cells are made of."""
    cells: tuple[Cell, ...]
    store_root: str
    drop: frozenset[str]
    """Stages whose weights go once no stage starts from them, of those that this trial reaches."""
    workers: Workers
    limits: Limits
    run: Run
    group: str = ""
    """Name in claims of the worker groups that its driver starts, one after another."""
    texts: Mapping[str, Text] = field(default_factory=dict)
    """Texts of the model by identity, to make damaged token files again."""
    outlive: frozenset[str] = frozenset()
    """Stages whose weights go when the sweep ends: more than one trial needs them."""
    awaited_tokens: frozenset[str] = frozenset()
    """Token files of training that the command makes while the trial runs."""

    def packed(self) -> bytes:
        """Return the job as few bytes, for processes of the same sweep."""
        return zlib.compress(pickle.dumps(self), level=1)

    @staticmethod
    def unpacked(data: bytes) -> Job:
        """Return the job that `packed` made these bytes of."""
        return pickle.loads(zlib.decompress(data))

    @cached_property
    def by_id(self) -> dict[str, Stage]:
        """All stages that the cells of this job are made of."""
        return {stage.id: stage for stage in self.known}

    def stage(self, stage_id: str) -> Stage:
        """Return a stage that a cell of this job is made of."""
        return self.by_id[stage_id]

    def target_of(self, stage_id: str | None) -> Target:
        """Return the target that a stage's weights were pruned to; the dense model's is 0."""
        while stage_id is not None:
            stage = self.stage(stage_id)
            found = stage.work.target_after()
            if found is not None:
                return found
            stage_id = stage.parent
        return Target(0.0)
