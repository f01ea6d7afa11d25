"""Workspace of a trial on one rank: weights, tokens, and the way results are published."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar, cast

import torch

from core.measures.sparse_bytes import mask_bytes
from core.measures.sparsity import measure
from core.pruners.quantise import Grid, save_grids
from core.ranks import Ranks
from orchestrator.failure import DamagedStageError
from orchestrator.inputs.token_reader import Awaited, TokenReader
from orchestrator.plan.inputs import Reading, TrainingDraw
from orchestrator.plan.job import Job
from orchestrator.plan.stages import Stage
from orchestrator.results import versions
from orchestrator.results.keeping import TEMPORARY
from orchestrator.store.store import Store
from orchestrator.trial.manifests import Manifests
from orchestrator.trial.notice import Notice
from orchestrator.trial.weights import Weights

logger = logging.getLogger(__name__)

T = TypeVar("T")
GRIDS_FILE = "scales.safetensors"
"""Grids that a stage's survivors were rounded to, beside its weights."""


class Workspace:
    """All that the stages of one trial share on one rank."""

    def __init__(self, job: Job, store: Store, ranks: Ranks, notice: Notice) -> None:
        self.job, self.store, self.ranks, self.notice = job, store, ranks, notice
        self.manifests = Manifests(store)
        waits = Awaited(job.awaited_tokens, job.run.attempt, job.limits.timeout_seconds)
        self.token_reader = TokenReader(store, job.source, job.texts, waits)
        self.weights = Weights(job, store, ranks, self.manifests)
        self.said: set[str] = set()
        """Lines that were logged once and for all."""

    def say_once(self, line: str, *values: object) -> None:
        """Log a warning on rank 0, once in a trial."""
        if self.ranks.rank == 0 and line not in self.said:
            self.said.add(line)
            logger.warning(line, *values)

    def told(self, question: Callable[[], T]) -> T:
        """Return rank 0's answer on all ranks (collective).

        Another sweep may publish into this store at any time, so rank 0 decides for all.
        """
        return cast(T, self.ranks.gather(question() if self.ranks.rank == 0 else None)[0])

    def earlier_metrics(self, stage: Stage) -> Iterator[dict[str, Any]]:
        """Yield the metrics of the earlier stages of a branch, the last first, not the dense one's.

        Collective.

        Raises:
            DamagedStageError: one of them is not in the store.
        """
        root, parent = self.job.root.id, stage.parent
        while parent is not None and parent != root:
            manifest = self.told(partial(self.manifests.find, parent))
            if manifest is None:
                raise DamagedStageError(parent, "it is not in the store")
            yield manifest["metrics"]
            parent = self.job.stage(parent).parent

    def publish(
        self, stage: Stage, metrics: dict[str, Any], grids: dict[str, Grid] | None = None
    ) -> None:
        """Measure sparsity, assert the masks, and store weights with metrics (collective)."""
        held, lead = self.weights.held, self.ranks.rank == 0
        assert held.model is not None
        measured = measure(held.model, held.masks)
        metrics |= {
            "dtype": str(next(held.model.parameters()).dtype).removeprefix("torch."),
            "num_pruned": measured.num_pruned,
            "num_prunable": measured.num_prunable,
            "mask_bytes": mask_bytes(measured.pruned, measured.total),
            "measured_sparsity": measured.sparsity,
            "measured_sparsity_worst": measured.worst(self.job.target_of(stage.id).sparsity),
        }
        if "matrices" in metrics:
            names = metrics["matrices"]["names"]
            metrics["matrices"]["sparsity"] = [round(measured.of(name), 6) for name in names]
        with self.store.scratch.directory() as directory:
            self.weights.save(directory)
            if lead:
                if grids:
                    save_grids(directory / GRIDS_FILE, grids)
                record = {**self.record(stage, metrics), **self.keeping_of(stage)}
                self.store.stages.at(stage.id).publish(directory, record)
        self.ranks.barrier()
        self.weights.note_published(stage.id)

    def publish_metrics(self, stage: Stage, metrics: dict[str, Any], **facts: Any) -> None:
        """Store a stage that has no weights (collective).

        Args:
            stage: the stage.
            metrics: its numbers.
            facts: more for its manifest; `versions`, more for what it says of libraries.
        """
        if self.ranks.rank == 0:
            with self.store.scratch.directory() as directory:
                record = self.record(stage, metrics)
                record["environment"] |= facts.pop("versions", {})
                record |= facts
                self.store.stages.at(stage.id).publish(directory, record)
        self.ranks.barrier()

    def keeping_of(self, stage: Stage) -> dict[str, str]:
        """Return what a manifest says of weights that the sweep will drop: the sweep's name."""
        temporary = stage.id in self.job.drop | self.job.outlive
        return {TEMPORARY: self.job.run.sweep_id} if temporary else {}

    def record(self, stage: Stage, metrics: dict[str, Any]) -> dict[str, Any]:
        """Return what a manifest says of a stage."""
        return {**stage.head(), "metrics": metrics, "environment": self.environment()}

    def environment(self) -> dict[str, Any]:
        """Return all that numbers depend on and no identity holds, as this process finds it."""
        device, model = self.ranks.device.type, self.weights.held.model
        return {
            **versions.environment(),
            "sources": versions.source_hash(),
            "num_workers": self.ranks.size,
            "device": device,
            "machine": versions.machine(device),
            "threads": torch.get_num_threads(),
            "micro_batch_tokens": self.job.workers.micro_batch_tokens,
            "tf32": versions.tf32(),
            "processor": versions.processor_generation(device),
            # The implementation that transformers chose, or the config.
            "attention": None if model is None else model.config._attn_implementation,
            **({"streamed": True} if self.weights.streams else {}),
        }

    def tokens(self, reading: Reading) -> torch.Tensor:
        """Return the tokens that a stage reads."""
        return self.token_reader.tokens(reading)

    def training_windows(self, draw: TrainingDraw) -> torch.Tensor:
        """Return the windows of a round of training; wait until the command has made them."""
        return self.token_reader.training_windows(draw)

    def counts(self, reading: Reading) -> torch.Tensor | None:
        """Return words and bytes of each token of an evaluation; None where nothing counted."""
        return self.token_reader.counts(reading)

    def micro_batch(self, seq_len: int) -> int:
        """Return the windows of a forward pass."""
        return max(1, self.job.workers.micro_batch_tokens // seq_len)
