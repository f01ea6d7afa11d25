"""What a rank of a trial works on: weights in memory, and the stored stages they come from.

Each stage starts from exactly what its parent stored; weights stay in memory where the next stage
starts from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from core.measures.sparsity import measure
from core.models.loading import load_model, load_tokenizer
from core.models.masks import MASKS_FILE, Masks, load_masks
from core.models.saving import save_model
from core.models.sharding import shard_
from core.models.sources import ModelSource
from core.parallel import Ranks
from core.precision import DTYPES
from core.pruners.quantise import Grid, save_grids
from orchestrator.failure import DamagedStageError
from orchestrator.inputs.tokens import load_counts, load_tokens, tokens_id
from orchestrator.plan.job import Job
from orchestrator.plan.stages import Stage
from orchestrator.results import versions
from orchestrator.store.store import Store
from orchestrator.trial.nodes import leader_first, opened_once

GRIDS_FILE = "scales.safetensors"
"""What a stage's survivors were rounded to, beside its weights."""


@dataclass
class Held:
    """The weights in memory and the stage they belong to."""

    stage: str | None = None
    model: PreTrainedModel | None = None
    masks: Masks = field(default_factory=dict)


class Workspace:
    """Loads and publishes the stages of one trial on one rank."""

    def __init__(self, job: Job, store: Store, ranks: Ranks) -> None:
        self.job, self.store, self.ranks = job, store, ranks
        self.source = ModelSource(**job.source)
        self.held = Held()
        self.manifests: dict[str, dict[str, Any]] = {}

    def hold(self, stage_id: str, model: PreTrainedModel, masks: Masks) -> None:
        """Keeps weights in memory as those of a stage."""
        self.held = Held(stage_id, model, masks)

    def forget(self) -> None:
        """Frees the weights in memory."""
        self.held = Held()

    def load(self, stage_id: str | None, training: bool) -> tuple[PreTrainedModel, Masks]:
        """Weights and masks of a stage: those in memory where they are its own, else the store's.

        Training needs float32 weights. Other stages run in the dtype the weights are stored in:
        the model's own before any training, float32 after.
        """
        assert stage_id is not None
        root = stage_id == self.job.root
        stored = self.job.dtype if root else self.stored_dtype(stage_id)
        dtype = DTYPES["float32" if training else stored]
        held = self.held
        if held.stage == stage_id and held.model is not None:
            if next(held.model.parameters()).dtype == dtype:
                return held.model, held.masks
        del held
        self.forget()
        if root:
            with leader_first(self.ranks):
                model, masks = load_model(self.source, dtype), {}
        else:
            model, masks = self.load_stage(stage_id, dtype)
        shard_(model, self.ranks, self.job.cpu_offload)
        self.hold(stage_id, model, masks)
        return model, masks

    def teacher(self) -> PreTrainedModel:
        """The dense model, sharded like the weights in memory; frees nothing, keeps nothing."""
        model = load_model(self.source, DTYPES[self.job.dtype])
        shard_(model, self.ranks, self.job.cpu_offload)
        return model.requires_grad_(False)

    def stored_dtype(self, stage_id: str) -> str:
        """Dtype of a stage's weights; the first rank's answer on all ranks."""
        manifest = self.ranks.gather(self.manifest(stage_id))[0]
        if manifest is None:
            raise DamagedStageError(stage_id, "it is not in the store")
        return manifest["metrics"]["dtype"]

    def load_stage(self, stage_id: str, dtype: torch.dtype) -> tuple[PreTrainedModel, Masks]:
        """Reads a published stage after checking its files.

        Raises:
            DamagedStageError: on all ranks, after setting the stage aside.
        """
        why = None
        if self.ranks.rank == 0:
            manifest, why = self.store.stages.at(stage_id).check(deep=True)
            if why is not None:
                self.store.stages.at(stage_id).set_aside(why)
            elif manifest is not None and manifest.get("dropped"):
                why = "its weights were dropped"
        why = self.ranks.agree(why)
        if why is not None:
            self.manifests.pop(stage_id, None)
            raise DamagedStageError(stage_id, why)
        with opened_once(self.store.stages.at(stage_id), self.ranks) as directory:
            masks_file = directory / MASKS_FILE
            masks = load_masks(masks_file) if masks_file.exists() else {}
            return load_model(directory, dtype), masks

    def publish(
        self,
        stage: Stage,
        clock: dict[str, float],
        metrics: dict[str, Any],
        wanted: float,
        grids: dict[str, Grid] | None = None,
    ) -> None:
        """Measures sparsity, asserts the masks and stores weights with metrics (collective)."""
        model, masks = self.held.model, self.held.masks
        assert model is not None
        measured = measure(model, masks)
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        metrics |= {
            **clock,
            "dtype": dtype,
            "num_pruned": measured.num_pruned,
            "num_prunable": measured.num_prunable,
            "measured_sparsity": measured.sparsity,
            "measured_sparsity_worst": measured.worst(wanted),
        }
        if "matrices" in metrics:
            names = metrics["matrices"]["names"]
            metrics["matrices"]["sparsity"] = [round(measured.of(name), 6) for name in names]
        with self.store.scratch.directory() as directory:
            save_model(directory, model, masks, self.ranks)
            if self.ranks.rank == 0:
                if grids:
                    save_grids(directory / GRIDS_FILE, grids)
                load_tokenizer(self.source).save_pretrained(directory)
                self.store.stages.at(stage.id).publish(directory, self.record(stage, metrics))
        self.ranks.barrier()

    def publish_metrics(self, stage: Stage, metrics: dict[str, Any]) -> None:
        """Stores a stage that has no weights."""
        if self.ranks.rank == 0:
            with self.store.scratch.directory() as directory:
                self.store.stages.at(stage.id).publish(directory, self.record(stage, metrics))
        self.ranks.barrier()

    def record(self, stage: Stage, metrics: dict[str, Any]) -> dict[str, Any]:
        """What a manifest says of a stage."""
        return {
            **stage.head(),
            "metrics": metrics,
            "environment": {
                **self.job.environment,
                "num_workers": self.ranks.size,
                "machine": versions.machine(self.ranks.device.type),
                "threads": torch.get_num_threads(),
                "micro_batch_tokens": self.job.micro_batch_tokens,
            },
        }

    def manifest(self, stage_id: str) -> dict[str, Any] | None:
        """A stage's manifest, remembered once found."""
        if stage_id not in self.manifests:
            found = self.store.stages.at(stage_id).manifest()
            if found is None:
                return None
            self.manifests[stage_id] = found
        return self.manifests[stage_id]

    def has_weights(self, stage_id: str) -> bool:
        """Whether a stage can be started from, as far as the store says now."""
        if stage_id == self.job.root:
            return True
        self.manifests.pop(stage_id, None)
        manifest = self.ranks.gather(self.manifest(stage_id))[0]
        return manifest is not None and not manifest.get("dropped")

    def need_manifest(self, stage_id: str) -> dict[str, Any]:
        """A manifest that must be there."""
        manifest = self.manifest(stage_id)
        assert manifest is not None, f"stage {stage_id} is not in the store"
        return manifest

    def tokens(self, stage: Stage) -> torch.Tensor:
        """The token file of a stage."""
        return load_tokens(self.store, self.tokens_id(stage))

    def counts(self, stage: Stage) -> torch.Tensor | None:
        """Words and bytes of each token that a stage evaluates, where they were counted."""
        return load_counts(self.store, self.tokens_id(stage))

    def tokens_id(self, stage: Stage) -> str:
        """Name of the token file of a stage that reads one."""
        name = tokens_id(stage, self.source.identity)
        assert name is not None
        return name

    def micro_batch(self, seq_len: int) -> int:
        """Windows a forward pass."""
        return max(1, self.job.micro_batch_tokens // seq_len)
