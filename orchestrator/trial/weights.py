"""Weights of stages: the one way to them, for all that a trial runs.

A stage starts from exactly what its parent stored. Weights stay in memory where the next stage
starts from them; else they are read from the store, or from the model's source.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel

from core.models.block_check import require_equal_blocks, require_equal_streamed_blocks
from core.models.loading import open_model
from core.models.mask_files import MASKS_FILE, MaskFile, Masks, load_masks
from core.models.model_writer import ModelWriter
from core.models.residence import Streamed, residence_of
from core.models.saving import save_model, save_settings
from core.models.sharding import shard_
from core.models.sources import ModelSource
from core.models.tokenizers import load_tokenizer
from core.precision import DTYPES
from core.ranks import Ranks
from orchestrator.estimate.devices import processes_here, usable_bytes
from orchestrator.failure import DamagedStageError
from orchestrator.plan.job import Job
from orchestrator.plan.kinds import Dense
from orchestrator.store.store import Store
from orchestrator.trial.manifests import Manifests
from orchestrator.trial.nodes import leader_first, opened_once


@dataclass
class Held:
    """The weights in memory and the stage that they belong to."""

    stage: str | None = None
    model: PreTrainedModel | None = None
    masks: Masks | MaskFile = field(default_factory=dict)

    @property
    def masks_in_memory(self) -> Masks:
        """The masks of a model that is not streamed."""
        assert not isinstance(self.masks, MaskFile)
        return self.masks


class Weights:
    """Loads, holds and saves the weights of one trial on one rank."""

    def __init__(self, job: Job, store: Store, ranks: Ranks, manifests: Manifests) -> None:
        self.job, self.store, self.ranks, self.manifests = job, store, ranks, manifests
        dense = job.root.work
        assert isinstance(dense, Dense)
        self.dense_dtype = dense.dtype
        self.held = Held()
        self.fetched = ExitStack()
        """Files that a streamed model reads, as long as it is held."""
        self.checked: set[torch.dtype] = set()
        """Dtypes in which the blocks of the dense model were compared with the whole model."""
        self.published: set[str] = set()
        """Stages that this trial has stored itself, so that their files are known to be whole."""
        workers = job.workers
        beside = processes_here(workers.threads, workers.at_once)
        usable = usable_bytes(ranks.device, beside, workers.gpus)
        fits = workers.untrained_bytes <= usable or any(stage.work.trains for stage in job.stages)
        room = max(0.0, usable - workers.streamed_bytes)
        self.room = room if ranks.device.type == "cpu" else None
        """Host memory for the hidden states of a streamed model; None if a GPU has the rest."""
        self.streams = not all(ranks.gather(fits))
        """True if models are too large for memory and stay in files, one block open at a time."""

    def hold(self, stage_id: str, model: PreTrainedModel, masks: Masks | MaskFile) -> None:
        """Keep weights in memory as those of a stage."""
        self.held = Held(stage_id, model, masks)

    def forget(self) -> None:
        """Free the weights in memory, and the files of a streamed model (collective)."""
        self.held = Held()
        self.fetched.close()

    def note_published(self, stage_id: str) -> None:
        """Note that the weights held are stored. Those of a streamed model are read from there."""
        self.published.add(stage_id)
        if self.streams:
            self.forget()

    def load(self, stage_id: str | None, training: bool) -> tuple[PreTrainedModel, Masks]:
        """Return weights and masks of a stage (collective).

        Training needs float32 weights. Other stages run in the dtype that the weights are stored
        in: the model's own before any training, float32 after.

        Raises:
            DamagedStageError: the stage is not whole, or not there.
        """
        assert stage_id is not None
        is_root = stage_id == self.job.root.id
        stored = self.dense_dtype if is_root else self.stored_dtype(stage_id)
        dtype = DTYPES["float32" if training else stored]
        held = self.held
        if held.stage == stage_id and held.model is not None:
            if next(held.model.parameters()).dtype == dtype:
                return held.model, held.masks_in_memory
        del held
        self.forget()
        if is_root:
            model, masks = self.read(self.job.source, dtype), {}
        else:
            model, masks = self.load_stored(stage_id, dtype)
        self.hold(stage_id, model, masks)
        return model, masks

    def teacher(self, dtype: str) -> PreTrainedModel:
        """Return the dense model, sharded like the weights in memory, which stay there."""
        return self.read(self.job.source, DTYPES[dtype]).requires_grad_(False)

    def read(self, source: ModelSource | Path, dtype: torch.dtype) -> PreTrainedModel:
        """Return a model of which each rank reads its own rows from the files (collective).

        The blocks of the dense model are compared with the whole model once. A streamed model
        keeps nothing of what it read for this.
        """
        with leader_first(self.ranks):
            files = open_model(source, dtype)
        is_new = source is self.job.source and dtype not in self.checked
        if self.streams:
            place = Streamed(files, self.ranks, self.store.scratch.folder(), self.room)
            if is_new:
                require_equal_streamed_blocks(files.model, place)
        else:
            with files.opened():
                shard_(files.model, self.ranks, self.job.workers.cpu_offload, read=files.read)
            if is_new:
                require_equal_blocks(files.model, self.ranks.device)
        if is_new:
            self.checked.add(dtype)
        return files.model

    @contextmanager
    def rewriting(self, model: PreTrainedModel, routers: bool) -> Iterator[None]:
        """Let a streamed model write its pruned blocks beside the store's files, on rank 0.

        With `routers`, routers and gates are pruned too.
        """
        place = residence_of(model)
        if not isinstance(place, Streamed) or self.ranks.rank > 0:
            yield
            return
        with self.store.scratch.directory() as directory:
            place.write_to(ModelWriter(directory, model, routers))
            yield

    def stored_dtype(self, stage_id: str) -> str:
        """Return the dtype of a stage's weights; all ranks take the first rank's answer."""
        manifest = self.ranks.gather(self.manifests.find(stage_id))[0]
        if manifest is None:
            raise DamagedStageError(stage_id, "it is not in the store")
        return manifest["metrics"]["dtype"]

    def load_stored(self, stage_id: str, dtype: torch.dtype) -> tuple[PreTrainedModel, Masks]:
        """Read a published stage after checking its files.

        Raises:
            DamagedStageError: on all ranks, after setting the stage aside.
        """
        why = None
        if self.ranks.rank == 0:
            deep = stage_id not in self.published
            manifest, why = self.store.stages.at(stage_id).check(deep)
            if why is not None:
                self.store.stages.at(stage_id).set_aside(why)
            elif manifest is not None and manifest.get("dropped"):
                why = "its weights were dropped"
        why = self.ranks.agree(why)
        if why is not None:
            self.manifests.forget(stage_id)
            raise DamagedStageError(stage_id, why)
        opened = opened_once(self.store.stages.at(stage_id), self.ranks)
        if self.streams:
            return self.read(self.fetched.enter_context(opened), dtype), {}
        with opened as directory:
            masks_file = directory / MASKS_FILE
            masks = load_masks(masks_file) if masks_file.exists() else {}
            return self.read(directory, dtype), masks

    def are_stored(self, stage_id: str) -> bool:
        """Return True if a stage can be started from, as far as the store says now."""
        if stage_id == self.job.root.id:
            return True
        self.manifests.forget(stage_id)
        manifest = self.ranks.gather(self.manifests.find(stage_id))[0]
        return manifest is not None and not manifest.get("dropped")

    def save(self, directory: Path) -> None:
        """Write the weights in memory, with masks and tokenizer, to a directory (collective).

        Those of a streamed model are on the store's disk already, and are moved.
        """
        model = self.held.model
        assert model is not None
        place = residence_of(model)
        if isinstance(place, Streamed):
            place.finish(model)
            if place.output is not None:
                place.output.move(directory)
                save_settings(directory, model)
        else:
            save_model(directory, model, self.held.masks_in_memory, self.ranks)
        if self.ranks.rank == 0:
            load_tokenizer(self.job.source).save_pretrained(directory)
